use opentelemetry::metrics::{Meter, MeterProvider, noop::NoopMeterProvider};
use tokio_util::sync::CancellationToken;

use crate::{Health, Tracer};

/// What a service gets from its process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// Cancelled when the process is asked to stop: finish what is under way, then return.
    pub shutdown: CancellationToken,
    pub health: Health,
    /// Instruments made from it appear in `/metrics`; counters get `_total` there.
    pub meter: Meter,
    pub tracer: Tracer,
    /// The process's name, as given to [`crate::run`].
    pub name: &'static str,
    pub version: &'static str,
}

impl Context {
    /// A context that belongs to no process: nothing is exported, and only its owner cancels `shutdown`. For tests.
    #[must_use]
    pub fn detached(name: &'static str) -> Self {
        Self {
            shutdown: CancellationToken::new(),
            health: Health::default(),
            meter: NoopMeterProvider::new().meter(name),
            tracer: Tracer::disabled(),
            name,
            version: "0.0.0",
        }
    }
}
