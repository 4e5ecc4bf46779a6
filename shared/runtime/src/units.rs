//! Durations and byte sizes with the unit in the text, so that a setting can never be read in the wrong one.

mod bytes;
mod duration;

pub use bytes::ByteSize;
pub use duration::Duration;

/// A duration or a byte size that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseUnitError {
    #[error("{text:?} is not {expected}")]
    Invalid { text: String, expected: &'static str },
    #[error("{text:?} has no unit; expected {expected}")]
    NoUnit { text: String, expected: &'static str },
    #[error("{text:?} is too large")]
    TooLarge { text: String },
}

/// Splits `text` into its leading decimal number and its unit, and multiplies by what `scale` says the unit is worth.
fn parse(text: &str, expected: &'static str, scale: impl Fn(&str) -> Option<u64>) -> Result<u64, ParseUnitError> {
    let invalid = || ParseUnitError::Invalid { text: text.to_owned(), expected };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at_checked(split).ok_or_else(invalid)?;
    let unit = unit.trim_start();
    if number.is_empty() {
        return Err(invalid());
    }
    let too_large = || ParseUnitError::TooLarge { text: text.to_owned() };
    let number: u64 = number.parse().map_err(|_| too_large())?;
    if unit.is_empty() {
        return if number == 0 { Ok(0) } else { Err(ParseUnitError::NoUnit { text: text.to_owned(), expected }) };
    }
    number.checked_mul(scale(unit).ok_or_else(invalid)?).ok_or_else(too_large)
}

/// The serde, schema, `Display`-based glue both types share.
macro_rules! text_unit {
    ($name:ident, $schema:literal, $pattern:literal) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $schema.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}
use text_unit;

#[cfg(test)]
mod tests;
