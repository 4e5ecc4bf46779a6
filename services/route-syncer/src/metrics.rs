use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use opentelemetry::metrics::Meter;
use runtime::instruments::Instruments;

/// Names without a prefix are those of the existing agent.
#[derive(Debug, Default)]
pub struct Metrics {
    pub success: AtomicU64,
    pub failures: AtomicU64,
    pub retries: AtomicU64,
    pub leading: AtomicI64,
    pub wished: AtomicI64,
    pub refused: AtomicI64,
    pub skipped: AtomicI64,
}

impl Metrics {
    pub fn register(meter: &Meter) -> Arc<Self> {
        Instruments::of(meter, &Arc::new(Self::default()))
            .counter("gateway_route_sync_success", "Times the control plane has taken the set of routes", |m| {
                &m.success
            })
            .counter("gateway_route_sync_failures", "Times it has not", |m| &m.failures)
            .counter("gateway_route_sync_retries", "Attempts after one that failed", |m| &m.retries)
            .gauge("pipeops_agent_route_syncer_leading", "Whether this instance is the one that syncs", |m| &m.leading)
            .gauge("pipeops_agent_routes", "Routes that the cluster is to have", |m| &m.wished)
            .gauge("pipeops_agent_routes_refused", "Routes that the control plane has refused", |m| &m.refused)
            .gauge("pipeops_agent_routes_skipped", "What Ingresses ask for and is no route", |m| &m.skipped)
            .registered()
    }
}
