//! Metrics of OpenTelemetry instruments and of the process itself, in the text format of Prometheus.

mod process;

use anyhow::Context as _;
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};
use prometheus::{Encoder as _, Registry, TextEncoder};

pub(crate) use process::ProcessCollector;

/// What `/metrics` shows.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    pub provider: SdkMeterProvider,
}

impl Metrics {
    pub fn start(name: &'static str, version: &'static str, resource: Resource) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .context("cannot set up metrics")?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).with_resource(resource).build();
        registry
            .register(Box::new(ProcessCollector::new(name, version).context("cannot describe process metrics")?))
            .context("cannot register process metrics")?;
        Ok(Self { registry, provider })
    }

    /// The text for a scrape.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(8 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
