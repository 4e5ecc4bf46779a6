use anyhow::Context as _;
use opentelemetry::metrics::{Meter, MeterProvider, noop::NoopMeterProvider};
use opentelemetry_sdk::Resource;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
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

    /// The same with metrics, and what a scrape of `/metrics` would show of them. For tests.
    ///
    /// # Errors
    /// When two metrics have one name.
    pub fn measured(name: &'static str) -> anyhow::Result<(Self, impl Fn() -> anyhow::Result<String> + Send + Sync)> {
        let context = Self::detached(name);
        let metrics = Metrics::start(name, context.version, Resource::builder_empty().build())?;
        let meter = metrics.provider.meter(name);
        let scrape = move || String::from_utf8(metrics.render()?).context("metrics that are no text");
        Ok((Self { meter, ..context }, scrape))
    }
}
