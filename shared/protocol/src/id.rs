//! Identifiers. Each is checked once, where it enters, so that it is safe in a log line, a URL path, a NATS payload or
//! a Kubernetes annotation afterwards.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a string is not an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("is empty")]
    Empty,
    #[error("is {length} characters long, at most {max} are allowed")]
    TooLong { length: usize, max: usize },
    #[error("contains {found:?}, which is not allowed in an identifier")]
    Character { found: char },
}

fn check(value: &str, max: usize, allowed: fn(u8) -> bool) -> Result<(), InvalidId> {
    if value.is_empty() {
        return Err(InvalidId::Empty);
    }
    if value.len() > max {
        return Err(InvalidId::TooLong { length: value.chars().count(), max });
    }
    if value.bytes().all(allowed) {
        return Ok(());
    }
    let bad = value.chars().find(|c| u8::try_from(*c).map_or(true, |b| !b.is_ascii() || !allowed(b)));
    Err(InvalidId::Character { found: bad.unwrap_or('?') })
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-')
}

fn is_file(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn is_stream(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"' && byte != b'\\'
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $max:expr, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The longest identifier of this kind, in bytes.
            pub const MAX: usize = $max;

            /// Checks and wraps `value`.
            ///
            /// # Errors
            /// When it is empty, too long or holds a character that is not allowed.
            pub fn new(value: impl Into<Box<str>>) -> Result<Self, InvalidId> {
                let value = value.into();
                check(&value, Self::MAX, $allowed)?;
                Ok(Self(value))
            }

            /// The identifier as given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                check(value, Self::MAX, $allowed)?;
                Ok(Self(value.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;
            fn try_from(value: &str) -> Result<Self, InvalidId> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.into()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(value.into_owned()).map_err(|e| de::Error::custom(format_args!(concat!(stringify!($name), " {}"), e)))
            }
        }
    };
}

identifier!(
    /// A cluster as the control plane names it: 1 to 128 of `A-Z a-z 0-9 . _ : -`.
    ClusterId, 128, is_name
);

identifier!(
    /// An agent, one per cluster, made once and kept: 1 to 128 of `A-Z a-z 0-9 . _ : -`.
    AgentId, 128, is_name
);

identifier!(
    /// A stream's name in logs and traces of both ends: 1 to 512 visible ASCII characters without `"` and `\`.
    StreamId, 512, is_stream
);

identifier!(
    /// A tunnel of a cluster, also part of a file's name: 1 to 180 of `A-Z a-z 0-9 . _ -`.
    TunnelId, 180, is_file
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_the_existing_agent_are_accepted() {
        for ok in ["agent-a24174672b98d81c", "c-1", "11111111-2222-3333-4444-555555555555", "a.b_c:d"] {
            assert_eq!(ClusterId::new(ok).unwrap().as_str(), ok);
        }
        assert!(StreamId::new("tcp-11111111/x@y#1").is_ok());
    }

    #[test]
    fn anything_that_could_leave_its_place_is_refused() {
        assert_eq!(ClusterId::new(""), Err(InvalidId::Empty));
        assert_eq!(ClusterId::new("a/b"), Err(InvalidId::Character { found: '/' }));
        assert_eq!(AgentId::new("a\nb"), Err(InvalidId::Character { found: '\n' }));
        assert_eq!(AgentId::new("zürich"), Err(InvalidId::Character { found: 'ü' }));
        assert_eq!(AgentId::new("x".repeat(129)), Err(InvalidId::TooLong { length: 129, max: 128 }));
        assert!(AgentId::new("x".repeat(128)).is_ok());
        assert!(StreamId::new("a\"b").is_err());
        assert!(StreamId::new("a b").is_err());
    }

    #[test]
    fn an_invalid_identifier_in_json_is_an_error_that_says_why() {
        let error = serde_json::from_str::<ClusterId>("\"a b\"").unwrap_err().to_string();
        assert!(error.contains("ClusterId contains ' '"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_harmless_wherever_it_is_put(text in "(?s).{0,20}|[A-Za-z0-9._:-]{0,140}") {
            if let Ok(id) = ClusterId::new(text.clone()) {
                prop_assert_eq!(id.as_str(), text.as_str());
                prop_assert!(text.bytes().all(|b| b.is_ascii_graphic() && !b"/?#%\"'\\<>".contains(&b)));
                prop_assert_eq!(serde_json::from_str::<ClusterId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
            }
            if let Ok(id) = StreamId::new(text) {
                prop_assert!(http::HeaderValue::from_str(id.as_str()).is_ok());
                prop_assert_eq!(serde_json::to_string(&id).unwrap().len(), id.as_str().len() + 2, "nothing to escape");
            }
        }
    }
}
