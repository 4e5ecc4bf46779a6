//! What runs for every proxied request allocates no more than its results need.

use allocation_counter::measure;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use protocol::{StreamHeader, StreamId, StreamKind, Target, TraceParent, User, hop, identity};
use std::hint::black_box;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The headers of an ordinary request of kubectl.
fn request() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "control-plane:8443"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip"),
        ("user-agent", "kubectl/v1.36.3"),
        ("kubectl-command", "kubectl get"),
        ("traceparent", PARENT),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

fn allocations<T>(work: impl FnOnce() -> T) -> u64 {
    measure(|| drop(black_box(work()))).count_total
}

#[test]
fn reading_and_writing_a_traceparent_allocates_nothing_but_the_header_value() {
    let headers = request();
    assert_eq!(allocations(|| TraceParent::parse(PARENT)), 0);
    assert_eq!(allocations(|| TraceParent::from_headers(&headers)), 0);
    let parent = TraceParent::parse(PARENT).unwrap();
    assert_eq!(allocations(|| parent.encode()), 0);
    assert_eq!(allocations(|| parent.to_header_value()), 1);
}

#[test]
fn a_stream_header_allocates_its_names_only() {
    let mut header = StreamHeader::kube(StreamId::new("s-0123456789abcdef").unwrap());
    header.traceparent = Some(TraceParent::parse(PARENT).unwrap());
    header.deadline = Some(std::time::Duration::from_secs(30));
    let kube = header.encode_v2();
    assert_eq!(allocations(|| StreamHeader::decode(&kube).unwrap()), 1, "the id");
    header.kind = StreamKind::Tcp;
    header.target = Some(Target::new("default", "web", 80).unwrap());
    let (v2, v1) = (header.encode_v2(), header.encode_v1().unwrap());
    assert_eq!(allocations(|| StreamHeader::decode(&v2).unwrap()), 3, "id, namespace, service");
    assert_eq!(allocations(|| StreamHeader::decode(&v1).unwrap()), 3, "id, namespace, service");
    assert_eq!(allocations(|| StreamHeader::decode(&v2[..20]).unwrap()), 0, "more bytes are needed");
}

#[test]
fn stripping_an_ordinary_request_allocates_nothing() {
    let mut headers = request();
    headers.insert("connection", HeaderValue::from_static("keep-alive, Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
    assert_eq!(allocations(|| hop::upgrade_type(&headers)), 0);
    assert_eq!(allocations(|| hop::strip_hop_by_hop(&mut headers)), 0);
    assert_eq!(allocations(|| identity::strip(&mut headers)), 0);
    assert_eq!(headers, request());
}

#[test]
fn identity_allocates_one_value_per_name() {
    let user = User { name: "alice@example.com".into(), groups: vec!["dev".into(), "ops".into()] };
    let mut headers = request();
    headers.reserve(8);
    let written = allocations(|| user.write_headers(&mut headers));
    // Three values; the map's own list of repeated headers is the fourth.
    assert!(written <= 4, "{written} allocations");
    let read = allocations(|| User::read_headers(&headers).unwrap());
    assert!(read <= 4, "{read} allocations: three names and their list");
}
