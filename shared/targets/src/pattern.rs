use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use protocol::Target;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Names Services: `namespace/service` or `namespace/service:port`, with `*` for any characters of a name, or any port.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    namespace: Box<str>,
    service: Box<str>,
    /// None: any.
    port: Option<NonZeroU16>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} names no Services: expected namespace/service or namespace/service:port, \"*\" for any, such as \"shop/*:80\""
)]
pub struct ParsePatternError {
    text: String,
}

impl Pattern {
    pub(crate) fn any_port(namespace: &str, service: &str) -> Self {
        Self { namespace: namespace.into(), service: service.into(), port: None }
    }

    /// Whether it names this Service.
    #[must_use]
    pub fn matches(&self, target: &Target) -> bool {
        glob(self.namespace.as_bytes(), target.namespace().as_bytes())
            && glob(self.service.as_bytes(), target.service().as_bytes())
            && self.port.is_none_or(|port| port == target.port())
    }
}

/// Whether `text` is as `pattern` says. Goes back to the last star only, so that no pattern takes long.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (Some((b'*', rest)), _) => {
                star = Some((rest, text));
                pattern = rest;
            }
            (Some((wanted, rest)), Some((found, more))) if wanted == found => (pattern, text) = (rest, more),
            (None, None) => return true,
            _ => {
                let Some((after, from)) = star else { return false };
                let Some((_, from)) = from.split_first() else { return false };
                star = Some((after, from));
                (pattern, text) = (after, from);
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = ParsePatternError;

    fn from_str(text: &str) -> Result<Self, ParsePatternError> {
        let invalid = || ParsePatternError { text: text.to_owned() };
        let name = |name: &str| {
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'*';
            !name.is_empty() && name.len() <= Target::MAX_LABEL && name.bytes().all(allowed)
        };
        let (namespace, rest) = text.split_once('/').ok_or_else(invalid)?;
        let (service, port) = rest.split_once(':').unwrap_or((rest, "*"));
        let port = match port {
            "*" => None,
            port if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().map_err(|_| invalid())?),
            _ => return Err(invalid()),
        };
        if !name(namespace) || !name(service) {
            return Err(invalid());
        }
        Ok(Self { namespace: namespace.into(), service: service.into(), port })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z0-9*-]{1,63}/[a-z0-9*-]{1,63}(:([0-9]{1,5}|[*]))?$" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, target: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(&target.parse().unwrap())
    }

    #[test]
    fn a_star_stands_for_any_characters_of_one_name() {
        for (pattern, target) in [
            ("*/*", "a/b:1"),
            ("a/b", "a/b:65535"),
            ("a/b:*", "a/b:1"),
            ("a/b:80", "a/b:80"),
            ("team-*/web", "team-1/web:1"),
            ("*-prod/*db*", "eu-prod/my-db-1:1"),
            ("a*a*a/b", "aaa/b:1"),
        ] {
            assert!(matches(pattern, target), "{pattern} {target}");
        }
        for (pattern, target) in [
            ("a/b", "a/bb:1"),
            ("a/b:80", "a/b:8080"),
            ("team-*/web", "team/web:1"),
            ("a*a*a/b", "aa/b:1"),
            ("*/web", "web/a:1"),
        ] {
            assert!(!matches(pattern, target), "{pattern} {target}");
        }
    }

    #[test]
    fn what_can_name_no_service_is_refused() {
        for bad in ["", "*", "a", "a/", "/b", "a/b:", "a/b:0", "a/b:65536", "a/b:+1", "A/b", "a/b.c", "a/b/c", "a b/c"]
        {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
        assert_eq!("a/*:80".parse::<Pattern>().unwrap().to_string(), "a/*:80");
    }

    proptest! {
        #[test]
        fn a_name_with_a_star_in_place_of_a_part_is_matched(name in "[a-z]{1,20}", from: prop::sample::Index, to: prop::sample::Index) {
            let (a, b) = (from.index(name.len() + 1), to.index(name.len() + 1));
            let (a, b) = (a.min(b), a.max(b));
            let [starred, longer] = [format!("{}*{}", &name[..a], &name[b..]), format!("{name}x*")];
            prop_assert!(glob(starred.as_bytes(), name.as_bytes()));
            prop_assert!(glob(name.as_bytes(), name.as_bytes()));
            prop_assert!(!glob(longer.as_bytes(), name.as_bytes()));
        }
    }
}
