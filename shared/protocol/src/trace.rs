//! W3C trace context (`traceparent`), which one request carries through every hop.

use std::fmt;

use http::HeaderValue;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Name of the header, and of the field in stream headers.
pub const TRACEPARENT: &str = "traceparent";

const LENGTH: usize = 55;
const SAMPLED: u8 = 1;

/// The parsed header: which trace, which span is the parent, and whether it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub sampled: bool,
}

/// The header does not follow the specification; it is to be ignored, and a new trace begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct InvalidTraceParent;

impl TraceParent {
    /// Parses `00-<32 hex>-<16 hex>-<2 hex>`; lower case only, ids not zero, later versions by their first four fields.
    /// Allocates nothing.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidTraceParent> {
        Self::parse_bytes(text.as_bytes()).ok_or(InvalidTraceParent)
    }

    /// The parent named by the request's headers; none when it is absent, repeated or malformed, as the
    /// specification asks.
    pub fn from_headers(headers: &http::HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let first = values.next()?;
        if values.next().is_some() {
            return None;
        }
        Self::parse_bytes(first.as_bytes())
    }

    fn parse_bytes(text: &[u8]) -> Option<Self> {
        let (fixed, rest) = text.split_first_chunk::<LENGTH>()?;
        let [v0, v1, b'-', ids @ .., b'-', f0, f1] = fixed else { return None };
        let (trace, span) = ids.split_first_chunk::<32>()?;
        let span = span.strip_prefix(b"-")?;
        let version = byte(*v0, *v1)?;
        match version {
            0xff => return None,
            0 if !rest.is_empty() => return None,
            _ if !rest.is_empty() && rest.first() != Some(&b'-') => return None,
            _ => {}
        }
        let trace_id = hex::<16>(trace)?;
        let span_id = hex::<8>(span)?;
        let flags = byte(*f0, *f1)?;
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id, sampled: flags & SAMPLED != 0 })
    }

    /// The header's text, version 00, without an allocation.
    pub fn encode(&self) -> [u8; LENGTH] {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut out = [b'-'; LENGTH];
        let digits = |value: u8| {
            let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
            [digit(value >> 4), digit(value & 0x0f)]
        };
        let separator = [None; 1];
        let bytes = [Some(0)]
            .into_iter()
            .chain(separator)
            .chain(self.trace_id.into_iter().map(Some))
            .chain(separator)
            .chain(self.span_id.into_iter().map(Some))
            .chain(separator)
            .chain([Some(u8::from(self.sampled))]);
        let mut rest = out.as_mut_slice();
        for value in bytes {
            let width = if value.is_some() { 2 } else { 1 };
            let Some((place, tail)) = rest.split_at_mut_checked(width) else { break };
            if let Some(value) = value {
                place.copy_from_slice(&digits(value));
            }
            rest = tail;
        }
        out
    }

    /// The header's value.
    pub fn to_header_value(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.encode()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn byte(high: u8, low: u8) -> Option<u8> {
    Some(nibble(high)? << 4 | nibble(low)?)
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (place, [high, low]) in out.iter_mut().zip(pairs) {
        *place = byte(*high, *low)?;
    }
    Some(out)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.encode()).map_err(|_| fmt::Error)?)
    }
}

impl std::str::FromStr for TraceParent {
    type Err = InvalidTraceParent;
    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        Self::parse(text)
    }
}

impl Serialize for TraceParent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceParent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_is_read_and_written() {
        let parent = TraceParent::parse(EXAMPLE).unwrap();
        assert_eq!(parent.trace_id[..2], [0x4b, 0xf9]);
        assert_eq!(parent.span_id[7], 0xb7);
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), EXAMPLE);
        assert_eq!(parent.to_header_value(), EXAMPLE);
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b7--01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
        ] {
            assert_eq!(TraceParent::parse(bad), Err(InvalidTraceParent), "{bad}");
        }
        assert!(TraceParent::parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later").is_ok());
        assert!(!TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02").unwrap().sampled);
    }

    #[test]
    fn a_repeated_header_is_ignored() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(TraceParent::from_headers(&headers), None);
        headers.append(TRACEPARENT, EXAMPLE.parse().unwrap());
        assert!(TraceParent::from_headers(&headers).is_some());
        headers.append(TRACEPARENT, EXAMPLE.parse().unwrap());
        assert_eq!(TraceParent::from_headers(&headers), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let parent = TraceParent { trace_id, span_id, sampled };
            prop_assert_eq!(TraceParent::parse(&parent.to_string()), Ok(parent));
        }

        #[test]
        fn no_text_makes_the_parser_fail_otherwise(text in "(?s).{0,80}") {
            if let Ok(parent) = TraceParent::parse(&text) {
                prop_assert_eq!(parent.trace_id, TraceParent::parse(&parent.to_string()).unwrap().trace_id);
            }
        }

        #[test]
        fn one_changed_character_never_panics(at in 0usize..55, to: char) {
            let mut text: Vec<char> = EXAMPLE.chars().collect();
            text[at] = to;
            let _ = TraceParent::parse(&text.into_iter().collect::<String>());
        }
    }
}
