//! Spans that cost next to nothing unless they are recorded.

use opentelemetry::{
    Context as OtelContext, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{
        Span as _, SpanBuilder, SpanContext, Status, TraceContextExt as _, TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SdkTracer, SdkTracerProvider};
use protocol::TraceParent;

pub use opentelemetry::trace::SpanKind;

/// Starts spans. Cheap to clone.
///
/// Without an exporter every span only hands on its parent's context. With one, a span with a parent is recorded when
/// the parent was, and a root with the configured probability; a root that is not recorded still gets a context that
/// says so, which keeps every later hop from beginning a trace of its own.
#[derive(Debug, Clone)]
pub struct Tracer {
    recorder: Option<Recorder>,
}

#[derive(Debug, Clone)]
struct Recorder {
    tracer: SdkTracer,
    /// A root is recorded when 63 random bits are below this.
    threshold: u64,
}

/// One operation. Ends when dropped.
#[derive(Debug)]
pub struct Span(Inner);

#[derive(Debug)]
enum Inner {
    Recording(Box<opentelemetry_sdk::trace::Span>),
    /// What is passed on instead of a context of its own.
    Silent(Option<TraceParent>),
}

impl Tracer {
    /// A tracer that records nothing.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { recorder: None }
    }

    pub(crate) fn new(provider: &SdkTracerProvider, name: &'static str, sample_ratio: f64) -> Self {
        Self { recorder: Some(Recorder { tracer: provider.tracer(name), threshold: threshold(sample_ratio) }) }
    }

    /// Begins the operation `name`, as a part of `parent` if there is one.
    #[must_use]
    pub fn start(&self, name: &'static str, kind: SpanKind, parent: Option<&TraceParent>) -> Span {
        let Some(recorder) = &self.recorder else { return Span(Inner::Silent(parent.copied())) };
        let context = match parent {
            Some(parent) if !parent.sampled => return Span(Inner::Silent(Some(*parent))),
            Some(parent) => OtelContext::new().with_remote_span_context(remote(parent)),
            None => match unsampled_root(recorder.threshold) {
                Some(context) => return Span(Inner::Silent(Some(context))),
                None => OtelContext::new(),
            },
        };
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        Span(Inner::Recording(Box::new(recorder.tracer.build_with_context(builder, &context))))
    }
}

impl Span {
    /// What to propagate to whoever carries on with this operation: this span's context, or, where it is not
    /// recorded, what was given as its parent.
    #[must_use]
    pub fn context(&self) -> Option<TraceParent> {
        match &self.0 {
            Inner::Silent(parent) => *parent,
            Inner::Recording(span) => {
                let context = span.span_context();
                Some(TraceParent {
                    trace_id: context.trace_id().to_bytes(),
                    span_id: context.span_id().to_bytes(),
                    sampled: context.is_sampled(),
                })
            }
        }
    }

    /// True when attributes are worth computing.
    #[must_use]
    pub const fn is_recording(&self) -> bool {
        matches!(self.0, Inner::Recording(_))
    }

    /// Adds an attribute. Where `value` costs something to make, ask [`Span::is_recording`] first.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Inner::Recording(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks the operation as failed; `message` is for people.
    pub fn fail(&mut self, message: impl Into<String>) {
        if let Inner::Recording(span) = &mut self.0 {
            span.set_status(Status::error(message.into()));
        }
    }
}

fn remote(parent: &TraceParent) -> SpanContext {
    let (trace_id, span_id) = (TraceId::from_bytes(parent.trace_id), SpanId::from_bytes(parent.span_id));
    SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, true, TraceState::NONE)
}

/// The context of a root that is not recorded; none when it is to be.
fn unsampled_root(threshold: u64) -> Option<TraceParent> {
    const ALL: u64 = 1 << 63;
    if threshold >= ALL {
        return None;
    }
    let ids = RandomIdGenerator::default();
    let trace_id = ids.new_trace_id().to_bytes();
    let [.., a, b, c, d, e, f, g, h] = trace_id;
    let random = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
    (random >= threshold).then(|| TraceParent { trace_id, span_id: ids.new_span_id().to_bytes(), sampled: false })
}

fn threshold(ratio: f64) -> u64 {
    const ALL: f64 = 9_223_372_036_854_775_808.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the product lies between 0 and 2^63, and a float's cast saturates"
    )]
    let threshold = (ratio.clamp(0.0, 1.0) * ALL) as u64;
    threshold
}

#[cfg(test)]
mod tests;
