use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use duplex::Relayed;
use http::StatusCode;
use opentelemetry::metrics::Meter;
use runtime::instruments::{Instruments, STATUS_CLASSES, count_status};

/// Of all web apps together: whose they are is in nobody's labels.
#[derive(Debug, Default)]
pub struct WebMetrics {
    pub hostnames: AtomicI64,
    connections: AtomicI64,
    active: AtomicI64,
    by_class: [AtomicU64; 5],
    response_bytes: AtomicU64,
    pub failed_handshakes: AtomicU64,
    /// From clients, and to them.
    passed: [AtomicU64; 2],
}

impl WebMetrics {
    pub fn register(meter: &Meter) -> Arc<Self> {
        Instruments::of(meter, &Arc::new(Self::default()))
            .gauge("pipeops_control_plane_web_hostnames", "Hostnames of web apps with routes", |m| &m.hostnames)
            .gauge("pipeops_control_plane_web_connections", "Clients' connections to web apps", |m| &m.connections)
            .gauge("pipeops_control_plane_web_requests_active", "Requests of web apps under way", |m| &m.active)
            .counters("pipeops_control_plane_web_requests", "Requests of web apps answered", STATUS_CLASSES, |m| {
                &m.by_class
            })
            .counter("pipeops_control_plane_web_response_bytes", "Bytes of web apps' response bodies", |m| {
                &m.response_bytes
            })
            .counter(
                "pipeops_control_plane_web_failed_handshakes",
                "Connections to web apps without a TLS handshake",
                |m| &m.failed_handshakes,
            )
            .counters(
                "pipeops_control_plane_web_passthrough_bytes",
                "Bytes of connections that are passed through, TLS and all",
                ("direction", ["from_client", "to_client"]),
                |m| &m.passed,
            )
            .registered()
    }

    pub fn passed(&self, relayed: Relayed) {
        for (counter, bytes) in self.passed.iter().zip([relayed.from_left, relayed.from_right]) {
            counter.fetch_add(bytes, Relaxed);
        }
    }

    pub fn connection(self: &Arc<Self>) -> Open {
        Open::new(self, |m| &m.connections)
    }

    pub fn request(self: &Arc<Self>) -> Open {
        Open::new(self, |m| &m.active)
    }
}

/// Something open; counted in a gauge until dropped.
#[derive(Debug)]
pub struct Open {
    metrics: Arc<WebMetrics>,
    gauge: fn(&WebMetrics) -> &AtomicI64,
}

impl Open {
    fn new(metrics: &Arc<WebMetrics>, gauge: fn(&WebMetrics) -> &AtomicI64) -> Self {
        gauge(metrics).fetch_add(1, Relaxed);
        Self { metrics: Arc::clone(metrics), gauge }
    }

    pub fn answered(&self, status: StatusCode) {
        count_status(&self.metrics.by_class, status.as_u16());
    }

    pub fn sent(&self, bytes: usize) {
        self.metrics.response_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        (self.gauge)(&self.metrics).fetch_sub(1, Relaxed);
    }
}
