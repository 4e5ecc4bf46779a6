use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use opentelemetry::metrics::{Histogram, Meter};
use runtime::instruments::Instruments;
use tokio::time::Instant;

use super::duration_boundaries;

/// Why a tunnel failed, or a datagram was lost; the label of the `*_errors_total`.
#[derive(Clone, Copy, Debug)]
pub enum TunnelFailure {
    /// The cluster's settings do not let this Service be reached.
    Forbidden,
    /// There are as many as may be.
    TooMany,
    Dial,
    Copy,
    Idle,
    /// A datagram was dropped for newer ones, or for want of a session.
    Dropped,
}

const FAILURES: [&str; 6] = ["forbidden", "too_many", "dial_error", "copy_error", "idle", "dropped"];
const DIRECTIONS: (&str, [&str; 2]) = ("direction", ["in", "out"]);

/// Of tunnels of one kind, whatever carries them over the link.
#[derive(Debug, Default)]
pub struct TunnelMetrics {
    active: AtomicI64,
    opened: AtomicU64,
    /// Bytes of TCP, datagrams of UDP: in from the control plane, out towards it.
    carried: [AtomicU64; 2],
    failures: [AtomicU64; 6],
    durations: Option<Histogram<f64>>,
}

impl TunnelMetrics {
    pub(super) fn tcp(meter: &Meter) -> Arc<Self> {
        let durations = meter
            .f64_histogram("pipeops_agent_tcp_tunnel_connection_duration_seconds")
            .with_description("How long connections of tunnels to Services were open")
            .with_boundaries(duration_boundaries())
            .build();
        let metrics = Arc::new(Self { durations: Some(durations), ..Self::default() });
        Instruments::of(meter, &metrics)
            .gauge("pipeops_agent_tcp_tunnel_active_connections", "Open connections of tunnels to Services", |m| {
                &m.active
            })
            .counter("pipeops_agent_tcp_tunnel_connections", "Connections of tunnels to Services", |m| &m.opened)
            .counters(
                "pipeops_agent_tcp_tunnel_bytes",
                "Bytes carried: in to the Service, out from it",
                DIRECTIONS,
                |m| &m.carried,
            )
            .counters(
                "pipeops_agent_tcp_tunnel_errors",
                "Connections that were not made, or ended early",
                ("error_type", FAILURES),
                |m| &m.failures,
            )
            .registered()
    }

    pub(super) fn udp(meter: &Meter) -> Arc<Self> {
        Instruments::of(meter, &Arc::new(Self::default()))
            .gauge("pipeops_agent_udp_tunnel_active_sessions", "Open sessions of tunnels with Services", |m| &m.active)
            .counter("pipeops_agent_udp_tunnel_sessions", "Sessions of tunnels with Services", |m| &m.opened)
            .counters(
                "pipeops_agent_udp_tunnel_packets",
                "Datagrams carried: in to the Service, out from it",
                DIRECTIONS,
                |m| &m.carried,
            )
            .counters(
                "pipeops_agent_udp_tunnel_errors",
                "Sessions that were not opened, and datagrams that were lost",
                ("error_type", FAILURES),
                |m| &m.failures,
            )
            .registered()
    }

    pub fn opened(self: &Arc<Self>) -> OpenTunnel {
        self.opened.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        OpenTunnel { metrics: Arc::clone(self), since: Instant::now() }
    }

    pub fn failed(&self, why: TunnelFailure) {
        if let Some(count) = self.failures.get(why as usize) {
            count.fetch_add(1, Relaxed);
        }
    }
}

/// One open connection or session; counted until dropped.
#[derive(Debug)]
pub struct OpenTunnel {
    metrics: Arc<TunnelMetrics>,
    since: Instant,
}

impl OpenTunnel {
    /// Towards the Service.
    pub fn incoming(&self, amount: u64) {
        let [incoming, _] = &self.metrics.carried;
        incoming.fetch_add(amount, Relaxed);
    }

    /// Towards the control plane.
    pub fn outgoing(&self, amount: u64) {
        let [_, outgoing] = &self.metrics.carried;
        outgoing.fetch_add(amount, Relaxed);
    }

    pub fn failed(&self, why: TunnelFailure) {
        self.metrics.failed(why);
    }

    pub fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.metrics.active.fetch_sub(1, Relaxed);
        if let Some(durations) = &self.metrics.durations {
            durations.record(self.since.elapsed().as_secs_f64(), &[]);
        }
    }
}
