//! Where the events of a watch begin and end, so that one can be ended between two of them.

use http::{HeaderMap, Uri, header};

/// How far the events of a watch have come.
#[derive(Debug)]
pub enum Events {
    /// JSON objects, each with a line feed at its end.
    Lines { whole: bool },
    /// Protobuf: four bytes of length, big endian, and as many more.
    Frames { head: [u8; 4], come: usize, payload: u32 },
}

impl Events {
    /// Those of a response to a request for `uri`, if it is a watch's and its events are of a kind that is known.
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Option<Self> {
        // As the API server reads it: any value but "false" and "0".
        let asks = |pair: &str| pair.strip_prefix("watch=").is_some_and(|value| !matches!(value, "false" | "0"));
        let is_watch = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch" || asks(pair)));
        if !is_watch || headers.contains_key(header::CONTENT_ENCODING) {
            return None;
        }
        let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        match kind.split(';').next()?.trim() {
            "application/json" => Some(Self::Lines { whole: true }),
            "application/vnd.kubernetes.protobuf" => Some(Self::Frames { head: [0; 4], come: 0, payload: 0 }),
            _ => None,
        }
    }

    pub fn advance(&mut self, mut bytes: &[u8]) {
        match self {
            Self::Lines { whole } => *whole = bytes.last().map_or(*whole, |last| *last == b'\n'),
            Self::Frames { head, come, payload } => {
                while let Some((first, rest)) = bytes.split_first() {
                    if *payload > 0 {
                        let skipped = usize::try_from(*payload).unwrap_or(usize::MAX).min(bytes.len());
                        *payload -= u32::try_from(skipped).unwrap_or(*payload);
                        bytes = bytes.get(skipped..).unwrap_or_default();
                        continue;
                    }
                    if let Some(place) = head.get_mut(*come) {
                        *place = *first;
                    }
                    *come += 1;
                    bytes = rest;
                    if *come == head.len() {
                        *come = 0;
                        *payload = u32::from_be_bytes(*head);
                    }
                }
            }
        }
    }

    /// Nothing of an event has come that is not whole.
    pub fn are_whole(&self) -> bool {
        match self {
            Self::Lines { whole } => *whole,
            Self::Frames { come, payload, .. } => *come == 0 && *payload == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, header::HeaderValue::from_static(kind))])
    }

    #[test]
    fn only_watches_of_known_kinds_have_events() {
        let pods = |query: &str| Uri::try_from(format!("/api/v1/pods?{query}")).unwrap();
        let json = headers("application/json");
        for query in ["watch=true", "watch=1", "limit=5&watch=true&timeoutSeconds=9", "watch"] {
            assert!(Events::of(&pods(query), &json).is_some(), "{query}");
        }
        for query in ["watch=false", "watch=0", "rewatch=1", "labelSelector=watch"] {
            assert!(Events::of(&pods(query), &json).is_none(), "{query}");
        }
        assert!(Events::of(&pods("watch=1"), &headers("application/vnd.kubernetes.protobuf;stream=watch")).is_some());
        assert!(Events::of(&pods("watch=1"), &headers("application/cbor-seq")).is_none());
        let mut packed = json;
        packed.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
        assert!(Events::of(&pods("watch=1"), &packed).is_none());
    }

    /// After each byte, whether the events so far are whole.
    fn whole(mut events: Events, bytes: &[u8]) -> Vec<bool> {
        assert!(events.are_whole(), "nothing has come yet");
        let mut seen = Vec::new();
        for byte in bytes {
            events.advance(&[*byte]);
            seen.push(events.are_whole());
        }
        seen
    }

    #[test]
    fn events_are_whole_behind_a_line_or_a_frame() {
        let lines = || Events::Lines { whole: true };
        assert_eq!(whole(lines(), b"{}\n{}\n"), [false, false, true, false, false, true]);
        let frames = || Events::Frames { head: [0; 4], come: 0, payload: 0 };
        let bytes = [&[0, 0, 0, 2, 7, 7][..], &[0, 0, 0, 0], &[0, 0, 1, 0], &[7; 256]].concat();
        let expected: Vec<bool> = (1..=bytes.len()).map(|end| [6, 10, 270].contains(&end)).collect();
        assert_eq!(whole(frames(), &bytes), expected);
        let mut events = frames();
        events.advance(&bytes);
        assert!(events.are_whole(), "in one piece");
    }
}
