//! Metrics always; traces only where a collector is configured, since their exporter costs a thread and megabytes.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};

use crate::{Telemetry as Settings, Tracer, metrics::Metrics};

const TRACES_PATH: &str = "/v1/traces";
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// What the last export may add to the time a process takes to end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) struct Telemetry {
    pub metrics: Metrics,
    pub tracer: Tracer,
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    pub fn start(name: &'static str, version: &'static str, settings: &Settings) -> anyhow::Result<Self> {
        let resource = resource(name, version);
        let metrics = Metrics::start(name, version, resource.clone())?;
        let Some(endpoint) = settings.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
            return Ok(Self { metrics, tracer: Tracer::disabled(), traces: None });
        };
        let traces = exporter(endpoint, resource).with_context(|| format!("cannot export traces to {endpoint:?}"))?;
        Ok(Self { metrics, tracer: Tracer::new(&traces, name, settings.sample_ratio), traces: Some(traces) })
    }

    /// Sends what is left. Blocks, so not to be called on a runtime.
    pub fn shutdown(self) {
        if let Some(traces) = self.traces
            && let Err(error) = traces.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            tracing::warn!(%error, "the last traces were not delivered");
        }
    }
}

fn exporter(endpoint: &str, resource: Resource) -> anyhow::Result<SdkTracerProvider> {
    // The exporter's HTTP client, like everything else, uses the process's provider.
    crate::tls::install_provider();
    let base = endpoint.trim_end_matches('/');
    let endpoint = if base.ends_with(TRACES_PATH) { base.to_owned() } else { format!("{base}{TRACES_PATH}") };
    let exporter = SpanExporter::builder().with_http().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build()?;
    // What is not to be recorded never gets as far as the provider.
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource)
        .build())
}

fn resource(name: &'static str, version: &'static str) -> Resource {
    Resource::builder().with_service_name(name).with_attribute(KeyValue::new("service.version", version)).build()
}
