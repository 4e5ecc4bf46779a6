//! A string that cannot be printed by accident.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// A token or password. `Debug`, `Display` and `Serialize` give `***`; only [`Secret::expose`] gives the value.
///
/// A field that has to carry the value to a peer says so: `#[serde(with = "protocol::secret::wire")]`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// What is printed in place of a secret.
pub const MASK: &str = "***";

impl Secret {
    /// Wraps `value` as it is.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself: for a request to the one peer that is to have it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the value is the empty string.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

/// Serialises a [`Secret`] with its value, for `#[serde(with = "protocol::secret::wire")]`.
pub mod wire {
    use super::Secret;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the value.
    ///
    /// # Errors
    /// Those of the serialiser.
    pub fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }

    /// Reads the value.
    ///
    /// # Errors
    /// When it is not a string.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        Secret::deserialize(deserializer)
    }
}

/// Serialises an `Option<Secret>` with its value, for
/// `#[serde(default, skip_serializing_if = "Option::is_none", with = "protocol::secret::wire_option")]`.
pub mod wire_option {
    use super::Secret;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the value or null.
    ///
    /// # Errors
    /// Those of the serialiser.
    pub fn serialize<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => serializer.serialize_some(secret.expose()),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the value; null is none.
    ///
    /// # Errors
    /// When it is neither a string nor null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
        Option::<Secret>::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Both {
        shown: Secret,
        #[serde(with = "wire")]
        sent: Secret,
        #[serde(default, skip_serializing_if = "Option::is_none", with = "wire_option")]
        maybe: Option<Secret>,
    }

    #[test]
    fn a_secret_is_printed_only_where_the_field_says_so() {
        let both = Both { shown: Secret::new("s3cr3t"), sent: Secret::new("t0ken"), maybe: None };
        assert_eq!(format!("{both:?} {}", both.shown), "Both { shown: ***, sent: ***, maybe: None } ***");
        assert_eq!(serde_json::to_string(&both).unwrap(), r#"{"shown":"***","sent":"t0ken"}"#);
        let read: Both = serde_json::from_str(r#"{"shown":"a","sent":"b","maybe":"c"}"#).unwrap();
        assert_eq!((read.shown.expose(), read.sent.expose(), read.maybe.unwrap().expose()), ("a", "b", "c"));
    }
}
