use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use opentelemetry::metrics::Meter;
use runtime::instruments::{Instruments, STATUS_CLASSES, count_status};

/// Counted in plain atomics, so that a request costs a few additions; read when somebody scrapes.
#[derive(Debug, Default)]
pub struct Metrics {
    active: AtomicI64,
    by_class: [AtomicU64; 5],
    upstream_errors: AtomicU64,
    response_bytes: AtomicU64,
    upgrades: AtomicU64,
}

impl Metrics {
    pub fn register(meter: &Meter) -> Arc<Self> {
        Instruments::of(meter, &Arc::new(Self::default()))
            .gauge(
                "pipeops_agent_proxy_requests_active",
                "Proxied requests under way, watches and sessions included",
                |m| &m.active,
            )
            .counters("pipeops_agent_proxy_requests", "Proxied requests answered", STATUS_CLASSES, |m| &m.by_class)
            .counter("pipeops_agent_kubernetes_api_errors", "Requests that got no answer from the API server", |m| {
                &m.upstream_errors
            })
            .counter("pipeops_agent_proxy_response_bytes", "Bytes of response bodies sent back", |m| &m.response_bytes)
            .counter(
                "pipeops_agent_proxy_upgrades",
                "Requests that became exec, attach or port-forward sessions",
                |m| &m.upgrades,
            )
            .registered()
    }

    pub fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Relaxed);
        Active(Arc::clone(self))
    }
}

/// One request under way; counted until dropped.
#[derive(Debug)]
pub struct Active(Arc<Metrics>);

impl Active {
    pub fn answered(&self, status: http::StatusCode) {
        count_status(&self.0.by_class, status.as_u16());
    }

    pub fn upgraded(&self) {
        self.0.upgrades.fetch_add(1, Relaxed);
    }

    pub fn upstream_failed(&self) {
        self.0.upstream_errors.fetch_add(1, Relaxed);
    }

    pub fn sent(&self, bytes: usize) {
        self.0.response_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}
