use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use datagrams::Moved;
use duplex::Relayed;
use opentelemetry::metrics::Meter;
use runtime::instruments::Instruments;

const DIRECTIONS: (&str, [&str; 2]) = ("direction", ["in", "out"]);

/// Why a client was not served to its end; the label of `pipeops_control_plane_tunnel_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// As many are there as may be.
    TooMany,
    /// No link, or one that takes no more.
    Unreachable,
    /// The cluster's agent made no connection.
    Refused,
    /// The cluster's side broke.
    Broken,
    /// A datagram was lost.
    Dropped,
}

const FAILURES: (&str, [&str; 5]) = ("error_type", ["too_many", "unreachable", "refused", "broken", "dropped"]);

/// Of all tunnels together. In is towards the cluster.
#[derive(Debug, Default)]
pub struct TunnelMetrics {
    pub ports: AtomicI64,
    pub failed_ports: AtomicI64,
    connections: AtomicI64,
    connected: AtomicU64,
    sessions: AtomicI64,
    begun: AtomicU64,
    bytes: [AtomicU64; 2],
    datagrams: [AtomicU64; 2],
    failures: [AtomicU64; 5],
}

impl TunnelMetrics {
    pub fn register(meter: &Meter) -> Arc<Self> {
        Instruments::of(meter, &Arc::new(Self::default()))
            .gauge("pipeops_control_plane_tunnel_ports", "Ports that are open for tunnels", |m| &m.ports)
            .gauge("pipeops_control_plane_tunnel_ports_failed", "Tunnels whose port cannot be opened", |m| {
                &m.failed_ports
            })
            .gauge("pipeops_control_plane_tunnel_connections_active", "Clients' TCP connections through tunnels", |m| {
                &m.connections
            })
            .counter("pipeops_control_plane_tunnel_connections", "Clients' TCP connections through tunnels", |m| {
                &m.connected
            })
            .gauge("pipeops_control_plane_tunnel_sessions_active", "Clients' UDP sessions through tunnels", |m| {
                &m.sessions
            })
            .counter("pipeops_control_plane_tunnel_sessions", "Clients' UDP sessions through tunnels", |m| &m.begun)
            .counters(
                "pipeops_control_plane_tunnel_bytes",
                "Bytes of TCP through tunnels: in to the cluster, out from it",
                DIRECTIONS,
                |m| &m.bytes,
            )
            .counters(
                "pipeops_control_plane_tunnel_datagrams",
                "Datagrams through tunnels: in to the cluster, out from it",
                DIRECTIONS,
                |m| &m.datagrams,
            )
            .counters(
                "pipeops_control_plane_tunnel_errors",
                "Clients that were not served to their end, and datagrams that were lost",
                FAILURES,
                |m| &m.failures,
            )
            .registered()
    }

    pub fn failed(&self, why: Failure) {
        self.failed_times(why, 1);
    }

    fn failed_times(&self, why: Failure, times: u64) {
        if let Some(count) = self.failures.get(why as usize) {
            count.fetch_add(times, Relaxed);
        }
    }

    pub fn connection(self: &Arc<Self>) -> Open {
        self.connected.fetch_add(1, Relaxed);
        Open::new(self, |m| &m.connections)
    }

    pub fn session(self: &Arc<Self>) -> Open {
        self.begun.fetch_add(1, Relaxed);
        Open::new(self, |m| &m.sessions)
    }

    /// Left is the client.
    pub fn relayed(&self, relayed: Relayed) {
        let [incoming, outgoing] = &self.bytes;
        incoming.fetch_add(relayed.from_left, Relaxed);
        outgoing.fetch_add(relayed.from_right, Relaxed);
    }

    /// The port is the client.
    pub fn moved(&self, moved: Moved) {
        let [incoming, outgoing] = &self.datagrams;
        incoming.fetch_add(moved.from_port, Relaxed);
        outgoing.fetch_add(moved.to_port, Relaxed);
        self.failed_times(Failure::Dropped, moved.dropped + moved.failed);
    }
}

/// Something open; counted in a gauge until dropped.
#[derive(Debug)]
pub struct Open {
    metrics: Arc<TunnelMetrics>,
    gauge: fn(&TunnelMetrics) -> &AtomicI64,
}

impl Open {
    fn new(metrics: &Arc<TunnelMetrics>, gauge: fn(&TunnelMetrics) -> &AtomicI64) -> Self {
        gauge(metrics).fetch_add(1, Relaxed);
        Self { metrics: Arc::clone(metrics), gauge }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        (self.gauge)(&self.metrics).fetch_sub(1, Relaxed);
    }
}
