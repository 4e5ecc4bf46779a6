//! Versions of parts, as far as the lab has to understand them.

use std::fmt;

/// `major.minor.patch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

impl Version {
    /// The first `1.2.3` in what a program printed about itself.
    pub(crate) fn first_in(text: &str) -> Option<Self> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
            let mut numbers = word.split('.').map(str::parse::<u32>);
            let mut next = || numbers.next().and_then(Result::ok);
            Some(Self { major: next()?, minor: next()?, patch: next()? })
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Which versions do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fit {
    /// This major and minor.
    Minor(u32, u32),
    /// This major, and at least this minor.
    AtLeast(u32, u32),
}

impl Fit {
    pub(crate) fn takes(self, version: Version) -> bool {
        match self {
            Self::Minor(major, minor) => (version.major, version.minor) == (major, minor),
            Self::AtLeast(major, minor) => version.major == major && version.minor >= minor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fit, Version};

    #[test]
    fn reads_what_the_programs_print() {
        for (text, expected) in [
            ("Kubernetes v1.36.3", "1.36.3"),
            ("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0", "1.32.4"),
            ("etcd Version: 3.6.16\nGit SHA: ab12\nGo Version: go1.26.8", "3.6.16"),
            ("nats-server: v2.15.2", "2.15.2"),
            ("v3.22.0+gabcdef", "3.22.0"),
            ("go version go1.26.8 linux/amd64", "1.26.8"),
        ] {
            assert_eq!(Version::first_in(text).map(|version| version.to_string()).as_deref(), Some(expected), "{text}");
        }
        assert!(Version::first_in("0.0-src, no version").is_none());
    }

    #[test]
    fn another_minor_is_refused() {
        let kubectl = Version { major: 1, minor: 32, patch: 4 };
        assert!(!Fit::Minor(1, 36).takes(kubectl));
        assert!(Fit::Minor(1, 32).takes(kubectl));
        assert!(Fit::AtLeast(1, 30).takes(kubectl));
        assert!(!Fit::AtLeast(2, 11).takes(Version { major: 2, minor: 9, patch: 10 }));
    }
}
