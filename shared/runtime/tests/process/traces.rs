use std::{net::TcpListener, time::Instant};

use opentelemetry_proto::tonic::{
    common::v1::any_value::Value, trace::v1::span::SpanKind, trace::v1::status::StatusCode,
};
use protocol::TraceParent;
use rustix::process::Signal;

use crate::{
    collector::{Collector, spans},
    driver::{Driven, PATIENCE},
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[test]
fn spans_reach_the_collector_with_their_parents_when_the_process_ends() {
    let collector = Collector::start();
    let mut driven = Driven::start(&[], &[("PIPEOPS_TELEMETRY_OTLP_ENDPOINT", &collector.endpoint)]);
    driven.tell(&format!("span {PARENT}"));
    let propagated = TraceParent::parse(&driven.wait_out(0)).unwrap();
    driven.signal(Signal::TERM);
    assert_eq!(driven.wait_exit().code(), Some(0));

    let received = collector.wait_spans(2);
    let attributes = &received[0].resource.as_ref().unwrap().attributes;
    let service = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
    let name = service.value.as_ref().unwrap().value.as_ref();
    assert_eq!(name, Some(&Value::StringValue("driven".to_owned())));

    let all: Vec<_> = received.iter().flat_map(spans).collect();
    let find = |name: &str| *all.iter().find(|span| span.name == name).unwrap();
    let (span, child) = (find("driven.span"), find("driven.child"));
    let parent = TraceParent::parse(PARENT).unwrap();
    assert_eq!(span.trace_id, parent.trace_id);
    assert_eq!(span.parent_span_id, parent.span_id);
    assert_eq!(span.kind(), SpanKind::Server);
    assert_eq!(span.attributes[0].value.as_ref().unwrap().value, Some(Value::IntValue(42)));
    let status = span.status.as_ref().unwrap();
    assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "as asked"));
    assert_eq!((&child.trace_id, &child.parent_span_id), (&span.trace_id, &span.span_id));
    assert_eq!(child.kind(), SpanKind::Client);
    assert_eq!(child.span_id, propagated.span_id, "what was propagated is what was recorded");
}

#[test]
fn a_parent_that_is_not_sampled_is_handed_on_and_nothing_is_sent() {
    let collector = Collector::start();
    let mut driven = Driven::start(&[], &[("PIPEOPS_TELEMETRY_OTLP_ENDPOINT", &collector.endpoint)]);
    driven.tell(&format!("span {UNSAMPLED}"));
    assert_eq!(driven.wait_out(0), UNSAMPLED);
    driven.signal(Signal::TERM);
    assert_eq!(driven.wait_exit().code(), Some(0));
    assert!(collector.is_empty());
}

#[test]
fn without_a_collector_contexts_pass_through_and_no_thread_is_started() {
    let mut driven = Driven::start(&[], &[]);
    driven.tell(&format!("span {PARENT}"));
    driven.tell("span");
    assert_eq!(driven.wait_out(0), PARENT);
    assert_eq!(driven.wait_out(1), "none");
    let metrics = driven.get("/metrics").body;
    assert!(metrics.contains("process_threads 2\n"), "the main thread and the driver's: {metrics}");
}

#[test]
fn a_root_outside_the_sample_says_so_to_later_hops() {
    let collector = Collector::start();
    let environment =
        [("PIPEOPS_TELEMETRY_OTLP_ENDPOINT", &*collector.endpoint), ("PIPEOPS_TELEMETRY_SAMPLE_RATIO", "0")];
    let mut driven = Driven::start(&[], &environment);
    driven.tell("span");
    assert!(!TraceParent::parse(&driven.wait_out(0)).unwrap().sampled);
    driven.tell("finish");
    assert_eq!(driven.wait_exit().code(), Some(0));
    assert!(collector.is_empty());
}

#[test]
fn a_collector_that_never_answers_delays_the_end_by_seconds_at_most() {
    let stuck = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", stuck.local_addr().unwrap());
    let mut driven = Driven::start(&[], &[("PIPEOPS_TELEMETRY_OTLP_ENDPOINT", &endpoint)]);
    driven.tell("span");
    driven.wait_out(0);
    let begun = Instant::now();
    driven.signal(Signal::TERM);
    assert_eq!(driven.wait_exit().code(), Some(0), "what it was for is done");
    assert!(begun.elapsed() < PATIENCE / 2);
    let log = driven.log();
    assert!(log.iter().any(|line| line["message"] == "the last traces were not delivered"), "{log:?}");
}

#[test]
fn an_endpoint_that_is_no_url_is_refused_at_the_start() {
    let output = crate::driver::finished(&[], &[("PIPEOPS_TELEMETRY_OTLP_ENDPOINT", "not a url")]);
    let said = crate::driver::text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot export traces to") && said.contains("not a url"), "{said}");
}
