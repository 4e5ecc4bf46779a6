use std::time::Duration;

use proptest::prelude::*;

use super::*;

const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn id(text: &str) -> StreamId {
    StreamId::new(text).unwrap()
}

fn v2(json: &str) -> Vec<u8> {
    let mut out = vec![2];
    out.extend_from_slice(&u16::try_from(json.len()).unwrap().to_be_bytes());
    out.extend_from_slice(json.as_bytes());
    out
}

#[test]
fn version_1_has_the_bytes_of_the_published_protocol() {
    let bytes = b"\x01\x01\x15\x38\x00\x03web\x00\x07default\x00\x06tcp-c1GET /";
    let (header, length) = StreamHeader::decode(bytes).unwrap().unwrap();
    assert_eq!(&bytes[length..], b"GET /");
    assert_eq!(header.kind, StreamKind::Tcp);
    assert_eq!(header.target.as_ref().unwrap().to_string(), "default/web:5432");
    assert_eq!(header.id.as_str(), "tcp-c1");
    assert_eq!(header.encode_v1().unwrap(), bytes[..length]);
    assert_eq!(StreamHeader::kube(id("k")).encode_v1(), None);
}

#[test]
fn version_2_is_json_after_a_length() {
    let full = StreamHeader {
        kind: StreamKind::Http,
        target: Some(Target::new("default", "web", 80).unwrap()),
        id: id("s-1"),
        traceparent: Some(EXAMPLE.parse().unwrap()),
        deadline: Some(Duration::from_millis(1500)),
    };
    let json = format!(
        r#"{{"kind":"http","target":"default/web:80","id":"s-1","traceparent":"{EXAMPLE}","deadline_ms":1500}}"#
    );
    assert_eq!(full.encode_v2(), v2(&json));
    assert_eq!(StreamHeader::kube(id("k")).encode_v2(), v2(r#"{"kind":"kube","id":"k"}"#));
    let escaped = v2(r#"{"\u006bind":"kube","id":"\u006b","later":{"x":[1]},"traceparent":"nonsense"}"#);
    assert_eq!(StreamHeader::decode(&escaped).unwrap().unwrap().0, StreamHeader::kube(id("k")));
}

#[test]
fn what_cannot_become_a_header_is_refused_at_once() {
    let error = |bytes: &[u8]| StreamHeader::decode(bytes).unwrap_err();
    assert!(matches!(error(b"GET / HTTP/1.1"), HeaderError::Version(b'G')));
    assert!(matches!(error(&[0]), HeaderError::Version(0)));
    assert!(matches!(error(&[1, 3]), HeaderError::Protocol(3)));
    assert!(matches!(error(&[1, 1, 0, 80, 0xff, 0xff]), HeaderError::TooLong { length: 0xffff, .. }));
    assert!(matches!(error(b"\x01\x01\x00\x50\x00\x01\xff\x00\x01a\x00\x01a"), HeaderError::NotUtf8 { .. }));
    assert!(matches!(error(b"\x01\x01\x00\x00\x00\x01a\x00\x01a\x00\x01a"), HeaderError::Target(InvalidTarget::Port)));
    assert!(matches!(error(b"\x01\x01\x00\x50\x00\x00\x00\x01a\x00\x01a"), HeaderError::Target(_)));
    assert!(matches!(error(b"\x01\x01\x00\x50\x00\x01a\x00\x01a\x00\x00"), HeaderError::Id(InvalidId::Empty)));
    assert!(matches!(error(&[2, 0x20, 0x01]), HeaderError::TooLong { length: 8193, max: MAX_JSON, .. }));
    assert!(matches!(error(&v2("{}")), HeaderError::Json(_)));
    assert!(matches!(error(&v2(r#"{"kind":"ssh","id":"x"}"#)), HeaderError::Json(_)));
    assert!(matches!(error(&v2(r#"{"kind":"kube","id":"x"}{}"#)), HeaderError::Json(_)));
    assert!(matches!(error(&v2(r#"{"kind":"kube","id":"a b"}"#)), HeaderError::Id(_)));
    assert!(matches!(error(&v2(r#"{"kind":"tcp","id":"x"}"#)), HeaderError::NoTarget(StreamKind::Tcp)));
    assert!(matches!(
        error(&v2(r#"{"kind":"tcp","id":"x","target":"a/b"}"#)),
        HeaderError::Target(InvalidTarget::Form)
    ));
}

#[test]
fn a_target_names_nothing_but_a_service() {
    for bad in [
        "",
        "a",
        "a/b",
        "/b:1",
        "a/:1",
        "a/b:",
        "a/b:0",
        "a/b:65536",
        "a/b:+1",
        "a/b:1:2",
        "a/b.evil.com:1",
        "a/127.0.0.1:1",
        "a/-b:1",
        "a/b-:1",
        "A/b:1",
        "a/b/c:1",
        "a/b@c:1",
        "a/ü:1",
        "a/b:1 ",
    ] {
        assert!(bad.parse::<Target>().is_err(), "{bad}");
    }
    assert!(format!("a/{}:1", "x".repeat(64)).parse::<Target>().is_err());
    assert_eq!("a-1/0b:65535".parse::<Target>().unwrap().to_string(), "a-1/0b:65535");
}

#[test]
fn a_target_of_http_says_whether_it_speaks_tls() {
    for (text, tls) in [("a/b:80", false), ("https://a/b:443", true)] {
        let target: HttpTarget = text.parse().unwrap();
        assert_eq!((target.tls, target.to_string()), (tls, text.to_owned()));
    }
    for bad in ["http://a/b:80", "https://a/b", "https://https://a/b:1", "https://evil.com:443"] {
        assert!(bad.parse::<HttpTarget>().is_err(), "{bad}");
    }
}

#[test]
fn the_largest_header_fits() {
    let label = "x".repeat(Target::MAX_LABEL);
    let header = StreamHeader {
        kind: StreamKind::Udp,
        target: Some(Target::new(&label, &label, u16::MAX).unwrap()),
        id: id(&"!".repeat(StreamId::MAX)),
        traceparent: Some(EXAMPLE.parse().unwrap()),
        deadline: Some(Duration::MAX),
    };
    let bytes = header.encode_v2();
    assert!(bytes.len() < MAX_JSON / 4, "{}", bytes.len());
    let (read, length) = StreamHeader::decode(&bytes).unwrap().unwrap();
    assert_eq!((read.id, read.target, length), (header.id, header.target, bytes.len()));
}

fn header() -> impl Strategy<Value = StreamHeader> {
    let label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
    let target =
        (label, label, 1u16..).prop_map(|(namespace, service, port)| Target::new(&namespace, &service, port).unwrap());
    let parent = any::<([u8; 16], [u8; 8], bool)>()
        .prop_filter("ids are not zero", |(trace, span, _)| *trace != [0; 16] && *span != [0; 8])
        .prop_map(|(trace_id, span_id, sampled)| TraceParent { trace_id, span_id, sampled });
    let kind = prop::sample::select(vec![StreamKind::Kube, StreamKind::Http, StreamKind::Tcp, StreamKind::Udp]);
    (kind, target, "[!#-\\[\\]-~]{1,60}", prop::option::of(parent), prop::option::of(any::<u32>())).prop_map(
        |(kind, target, id, traceparent, deadline)| StreamHeader {
            kind,
            target: (kind != StreamKind::Kube).then_some(target),
            id: StreamId::new(id).unwrap(),
            traceparent,
            deadline: deadline.map(|ms| Duration::from_millis(ms.into())),
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_whatever_follows(header in header(), rest in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut bytes = header.encode_v2();
        let length = bytes.len();
        bytes.extend_from_slice(&rest);
        prop_assert_eq!(StreamHeader::decode(&bytes).unwrap(), Some((header.clone(), length)));
        if let Some(mut bytes) = header.encode_v1() {
            let length = bytes.len();
            bytes.extend_from_slice(&rest);
            let read = StreamHeader { traceparent: None, deadline: None, ..header };
            prop_assert_eq!(StreamHeader::decode(&bytes).unwrap(), Some((read, length)));
        }
    }

    #[test]
    fn every_beginning_of_a_header_asks_for_more(header in header(), at: prop::sample::Index) {
        for bytes in [Some(header.encode_v2()), header.encode_v1()].into_iter().flatten() {
            let beginning = &bytes[..at.index(bytes.len())];
            prop_assert!(matches!(StreamHeader::decode(beginning), Ok(None)));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(version in 0u8..4, rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = vec![version];
        bytes.extend_from_slice(&rest);
        if let Ok(Some((_, length))) = StreamHeader::decode(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }

    #[test]
    fn a_changed_byte_never_makes_it_panic(header in header(), at: prop::sample::Index, to: u8) {
        for mut bytes in [Some(header.encode_v2()), header.encode_v1()].into_iter().flatten() {
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(Some((_, length))) = StreamHeader::decode(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }

    #[test]
    fn it_never_waits_for_more_than_the_largest_header(bytes in prop::collection::vec(any::<u8>(), MAX_JSON + 3..MAX_JSON + 64), version in 1u8..3) {
        let mut bytes = bytes;
        bytes[0] = version;
        prop_assert!(!matches!(StreamHeader::decode(&bytes), Ok(None)));
    }

    #[test]
    fn no_text_makes_the_target_parser_panic(text in "[a-z0-9/:.-]{0,20}") {
        if let Ok(target) = text.parse::<Target>() {
            prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
        }
    }
}
