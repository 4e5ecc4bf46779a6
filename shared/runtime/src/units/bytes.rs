use std::{fmt, str::FromStr};

use super::{ParseUnitError, parse, text_unit};

const EXPECTED: &str = "a size such as \"512B\", \"64KiB\", \"4MiB\" or \"1GB\"";
/// Largest first within each family, binary before decimal, so that `Display` finds the shortest exact form.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A number of bytes in a configuration: one whole number and a unit, binary (`KiB`, `MiB`, `GiB`, `TiB`) or decimal
/// (`kB`, `MB`, `GB`, `TB`), or `B`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn kib(kibibytes: u64) -> Self {
        Self(kibibytes.saturating_mul(1 << 10))
    }

    #[must_use]
    pub const fn mib(mebibytes: u64) -> Self {
        Self(mebibytes.saturating_mul(1 << 20))
    }

    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// As a length in memory; `usize::MAX` where it does not fit, which as a limit means the same.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let scale = |unit: &str| UNITS.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes);
        parse(text, EXPECTED, scale).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

text_unit!(ByteSize, "ByteSize", "^(0|[0-9]+ ?([KMGT]iB|[kMGT]B|B))$");
