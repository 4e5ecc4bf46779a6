use std::sync::{Arc, Mutex};

use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SpanData, SpanExporter},
};

use super::*;

const PARENT: TraceParent = TraceParent { trace_id: [7; 16], span_id: [9; 8], sampled: true };

#[derive(Debug, Clone, Default)]
struct Finished(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Finished {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Finished {
    fn spans(&self) -> Vec<SpanData> {
        self.0.lock().unwrap().clone()
    }
}

fn recording(ratio: f64) -> (Tracer, Finished, SdkTracerProvider) {
    let exporter = Finished::default();
    let provider =
        SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).with_sampler(Sampler::AlwaysOn).build();
    (Tracer::new(&provider, "test", ratio), exporter, provider)
}

#[test]
fn a_disabled_tracer_hands_on_the_parent_and_records_nothing() {
    let mut span = Tracer::disabled().start("x", SpanKind::Server, Some(&PARENT));
    assert!(!span.is_recording());
    assert_eq!(span.context(), Some(PARENT));
    span.set("key", 1);
    span.fail("no one hears");
    assert_eq!(Tracer::disabled().start("x", SpanKind::Server, None).context(), None);
}

#[test]
fn the_parent_decides_whatever_the_ratio() {
    let (tracer, exporter, _provider) = recording(0.0);
    let span = tracer.start("child", SpanKind::Server, Some(&PARENT));
    let context = span.context().unwrap();
    assert_eq!(context.trace_id, PARENT.trace_id);
    assert_ne!(context.span_id, PARENT.span_id);
    assert!(context.sampled);
    drop(span);
    let spans = exporter.spans();
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].parent_span_id.to_bytes(), PARENT.span_id);
    assert!(spans[0].parent_span_is_remote);

    let (tracer, exporter, _provider) = recording(1.0);
    let unsampled = TraceParent { sampled: false, ..PARENT };
    assert_eq!(tracer.start("child", SpanKind::Server, Some(&unsampled)).context(), Some(unsampled));
    assert!(exporter.spans().is_empty());
}

#[test]
fn a_root_that_is_not_recorded_tells_later_hops_so() {
    let (tracer, exporter, _provider) = recording(0.0);
    let first = tracer.start("root", SpanKind::Server, None).context().unwrap();
    let second = tracer.start("root", SpanKind::Server, None).context().unwrap();
    assert!(!first.sampled);
    assert_ne!(first.trace_id, second.trace_id);
    assert!(exporter.spans().is_empty());
}

#[test]
fn roots_are_recorded_at_the_ratio() {
    let (tracer, ..) = recording(0.25);
    let recorded = (0..4000).filter(|_| tracer.start("root", SpanKind::Server, None).is_recording()).count();
    // Eight standard deviations either way.
    assert!((780..1220).contains(&recorded), "{recorded} of 4000");
    let (tracer, ..) = recording(1.0);
    assert!((0..100).all(|_| tracer.start("root", SpanKind::Server, None).is_recording()));
}

#[test]
fn a_ratio_outside_its_range_is_taken_as_its_nearest_end() {
    assert_eq!(threshold(-1.0), 0);
    assert_eq!(threshold(f64::NAN), 0);
    assert_eq!(threshold(2.0), 1 << 63);
}
