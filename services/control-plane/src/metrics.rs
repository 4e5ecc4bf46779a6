use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use opentelemetry::metrics::Meter;
use runtime::instruments::{Instruments, STATUS_CLASSES, count_status};

use crate::clusters::TooMany;

/// Plain atomics, read when somebody scrapes.
#[derive(Debug, Default)]
pub struct Metrics {
    active: AtomicI64,
    by_class: [AtomicU64; 5],
    response_bytes: AtomicU64,
    connections: AtomicI64,
    links: AtomicI64,
    pub failed_handshakes: AtomicU64,
    pub refused_agents: AtomicU64,
    pub bad_messages: AtomicU64,
    pub unknown_messages: AtomicU64,
    pub heartbeats: AtomicU64,
    /// Of exchanges that nobody waits for any more.
    pub late_messages: AtomicU64,
    pub unread_answers_cut: AtomicU64,
    pub dropped_datagrams: AtomicU64,
    /// By [`LIMITED`].
    limited: [AtomicU64; 2],
}

/// Why a request is refused with 429: how many there are in a second, or at once.
const LIMITED: (&str, [&str; 2]) = ("limit", ["rate", "open"]);

impl Metrics {
    pub fn register(meter: &Meter) -> Arc<Self> {
        Instruments::of(meter, &Arc::new(Self::default()))
            .gauge("pipeops_control_plane_requests_active", "Requests under way, watches and sessions included", |m| {
                &m.active
            })
            .gauge("pipeops_control_plane_connections", "Connections of users and agents", |m| &m.connections)
            .gauge("pipeops_control_plane_links", "Links of agents that are up", |m| &m.links)
            .counters("pipeops_control_plane_requests", "Requests answered", STATUS_CLASSES, |m| &m.by_class)
            .counter("pipeops_control_plane_response_bytes", "Bytes of response bodies", |m| &m.response_bytes)
            .counter("pipeops_control_plane_failed_handshakes", "Connections without a TLS handshake", |m| {
                &m.failed_handshakes
            })
            .counter("pipeops_control_plane_refused_agents", "Registrations refused", |m| &m.refused_agents)
            .counter("pipeops_control_plane_bad_messages", "Agents' messages that cannot be read", |m| &m.bad_messages)
            .counter("pipeops_control_plane_unknown_messages", "Agents' messages of unknown type", |m| {
                &m.unknown_messages
            })
            .counter("pipeops_control_plane_heartbeats", "Heartbeats of agents", |m| &m.heartbeats)
            .counter(
                "pipeops_control_plane_late_messages",
                "Agents' messages of requests that nobody waits for any more",
                |m| &m.late_messages,
            )
            .counter(
                "pipeops_control_plane_unread_answers_cut",
                "Answers sent as messages that were cut because their clients did not read",
                |m| &m.unread_answers_cut,
            )
            .counter(
                "pipeops_control_plane_message_datagrams_dropped",
                "Datagrams sent as messages that came faster than their clients took them",
                |m| &m.dropped_datagrams,
            )
            .counters(
                "pipeops_control_plane_requests_limited",
                "Requests refused because of their cluster's limits",
                LIMITED,
                |m| &m.limited,
            )
            .registered()
    }

    pub fn begin(self: &Arc<Self>) -> Active {
        Active(Counted::new(self, |m| &m.active))
    }

    pub fn limited(&self, why: TooMany) {
        let [rate, open] = &self.limited;
        let count = match why {
            TooMany::Rate(_) => rate,
            TooMany::Open(_) => open,
        };
        count.fetch_add(1, Relaxed);
    }

    pub fn connection(self: &Arc<Self>) -> Counted {
        Counted::new(self, |m| &m.connections)
    }

    pub fn link(self: &Arc<Self>) -> Counted {
        Counted::new(self, |m| &m.links)
    }
}

/// Something open; counted in a gauge until dropped.
#[derive(Debug)]
pub struct Counted {
    metrics: Arc<Metrics>,
    gauge: fn(&Metrics) -> &AtomicI64,
}

impl Counted {
    fn new(metrics: &Arc<Metrics>, gauge: fn(&Metrics) -> &AtomicI64) -> Self {
        gauge(metrics).fetch_add(1, Relaxed);
        Self { metrics: Arc::clone(metrics), gauge }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.gauge)(&self.metrics).fetch_sub(1, Relaxed);
    }
}

/// One request under way.
#[derive(Debug)]
pub struct Active(Counted);

impl Active {
    pub fn answered(&self, status: http::StatusCode) {
        count_status(&self.0.metrics.by_class, status.as_u16());
    }

    pub fn sent(&self, bytes: usize) {
        self.0.metrics.response_bytes.fetch_add(bytes as u64, Relaxed);
    }
}
