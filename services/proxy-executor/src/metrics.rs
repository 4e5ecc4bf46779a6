use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

/// Counted in plain atomics, so that a request costs a few additions; read when somebody scrapes.
#[derive(Debug, Default)]
pub struct Metrics {
    active: AtomicI64,
    by_class: [AtomicU64; 5],
    upstream_errors: AtomicU64,
    response_bytes: AtomicU64,
    upgrades: AtomicU64,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Metrics {
    pub fn register(meter: &Meter) -> Arc<Self> {
        let metrics = Arc::new(Self::default());
        let m = Arc::clone(&metrics);
        let _active = meter
            .i64_observable_gauge("pipeops_agent_proxy_requests_active")
            .with_description("Proxied requests under way, watches and sessions included")
            .with_callback(move |o| o.observe(m.active.load(Relaxed), &[]))
            .build();
        let m = Arc::clone(&metrics);
        let _requests = meter
            .u64_observable_counter("pipeops_agent_proxy_requests")
            .with_description("Proxied requests answered, by class of their status")
            .with_callback(move |o| {
                for (class, count) in CLASSES.iter().zip(&m.by_class) {
                    o.observe(count.load(Relaxed), &[KeyValue::new("class", *class)]);
                }
            })
            .build();
        let counters: [(&'static str, &'static str, fn(&Self) -> &AtomicU64); 3] = [
            ("pipeops_agent_kubernetes_api_errors", "Requests that got no answer from the API server", |m| {
                &m.upstream_errors
            }),
            ("pipeops_agent_proxy_response_bytes", "Bytes of response bodies sent back", |m| &m.response_bytes),
            ("pipeops_agent_proxy_upgrades", "Requests that became exec, attach or port-forward sessions", |m| {
                &m.upgrades
            }),
        ];
        for (name, description, counter) in counters {
            let m = Arc::clone(&metrics);
            let _counter = meter
                .u64_observable_counter(name)
                .with_description(description)
                .with_callback(move |o| o.observe(counter(&m).load(Relaxed), &[]))
                .build();
        }
        metrics
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
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(count) = self.0.by_class.get(class) {
            count.fetch_add(1, Relaxed);
        }
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
