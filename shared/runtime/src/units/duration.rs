use std::{fmt, ops::Deref, str::FromStr, time};

use super::{ParseUnitError, parse, text_unit};

const EXPECTED: &str = "a duration such as \"500ms\", \"30s\", \"5m\" or \"1h\"";
/// Largest first, so that `Display` finds the shortest exact form.
const UNITS: [(&str, u64); 5] =
    [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)];

/// A duration in a configuration: one whole number and one of `us`, `ms`, `s`, `m`, `h`. Printed in the largest unit
/// that keeps it exact; anything below a microsecond is dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(time::Duration);

impl Duration {
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(time::Duration::from_secs(seconds))
    }

    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(time::Duration::from_millis(milliseconds))
    }

    #[must_use]
    pub const fn get(self) -> time::Duration {
        self.0
    }
}

impl Deref for Duration {
    type Target = time::Duration;

    fn deref(&self) -> &time::Duration {
        &self.0
    }
}

impl From<time::Duration> for Duration {
    fn from(duration: time::Duration) -> Self {
        Self(duration)
    }
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let scale = |unit: &str| UNITS.iter().find(|(name, _)| *name == unit).map(|(_, nanos)| *nanos);
        parse(text, EXPECTED, scale).map(|nanos| Self(time::Duration::from_nanos(nanos)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        match UNITS.iter().find(|(_, unit)| nanos.is_multiple_of(u128::from(*unit))) {
            Some((name, unit)) => write!(f, "{}{name}", nanos / u128::from(*unit)),
            None => write!(f, "{}us", self.0.as_micros()),
        }
    }
}

text_unit!(Duration, "Duration", "^(0|[0-9]+ ?(us|ms|s|m|h))$");
