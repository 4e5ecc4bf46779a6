mod exchanges;
mod tunnels;
mod websockets;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use duplex::Relayed;
use opentelemetry::metrics::{Histogram, Meter};
use runtime::instruments::Instruments;
use tokio::time::Instant;

pub use exchanges::{ExchangeMetrics, Unused};
pub use tunnels::{OpenTunnel, TunnelFailure, TunnelMetrics};
pub use websockets::{Dropped, OpenWebSocket, WebSocketFailure, WebSocketMetrics};

/// What `pipeops_agent_connection_state` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    Disconnected = 0,
    Connecting = 1,
    Connected = 2,
    Reconnecting = 3,
}

impl ConnectionState {
    pub const NAMES: [&'static str; 4] = ["disconnected", "connecting", "connected", "reconnecting"];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Reconnecting => "reconnecting",
        }
    }
}

/// Why a stream failed; the label of `pipeops_agent_yamux_stream_errors_total`.
#[derive(Clone, Copy, Debug)]
pub enum StreamError {
    Dial,
    Header,
    Copy,
}

/// Plain atomics, read when somebody scrapes. Names are those of the existing agent.
#[derive(Debug, Default)]
pub struct Metrics {
    state: AtomicI64,
    unverified: AtomicI64,
    reconnections: AtomicU64,
    heartbeats: AtomicU64,
    heartbeat_failures: AtomicU64,
    skipped_heartbeats: AtomicU64,
    heartbeat_duration: Option<Histogram<f64>>,
    stream_duration: Option<Histogram<f64>>,
    /// Since when there is no link; none while there is one.
    unlinked: Mutex<Option<Instant>>,
    state_changes: [AtomicU64; 4],
    active_streams: AtomicI64,
    accepted_streams: AtomicU64,
    stream_errors: [AtomicU64; 3],
    bytes: [AtomicU64; 2],
    pub tcp: Arc<TunnelMetrics>,
    pub udp: Arc<TunnelMetrics>,
    pub exchanges: Arc<ExchangeMetrics>,
}

/// 0.1 s, doubled 14 times.
fn duration_boundaries() -> Vec<f64> {
    std::iter::successors(Some(0.1), |seconds| Some(seconds * 2.0)).take(15).collect()
}

impl Metrics {
    pub fn register(meter: &Meter) -> Arc<Self> {
        let causes = ("type", ["dial_error", "header_error", "copy_error"]);
        let duration = meter.f64_histogram("pipeops_agent_heartbeat_duration_seconds");
        let duration = duration.with_description("How long heartbeats waited for their place on the link").build();
        let streams = meter.f64_histogram("pipeops_agent_yamux_stream_duration_seconds");
        let streams =
            streams.with_description("How long streams were open").with_boundaries(duration_boundaries()).build();
        let values = Arc::new(Self {
            heartbeat_duration: Some(duration),
            stream_duration: Some(streams),
            unlinked: Mutex::new(Some(Instant::now())),
            tcp: TunnelMetrics::tcp(meter),
            udp: TunnelMetrics::udp(meter),
            exchanges: ExchangeMetrics::register(meter),
            ..Self::default()
        });
        let seen = Arc::clone(&values);
        let _unlinked = meter
            .f64_observable_gauge("pipeops_agent_unhealthy_duration_seconds")
            .with_description("For how long there is no link; 0 while there is one")
            .with_callback(move |observer| observer.observe(seen.unlinked_for().as_secs_f64(), &[]))
            .build();
        Instruments::of(meter, &values)
            .gauge("pipeops_agent_connection_state", "0 disconnected, 1 connecting, 2 connected, 3 reconnecting", |m| {
                &m.state
            })
            .gauge(
                "pipeops_agent_tls_unverified",
                "1 while certificates of the control plane are not verified (insecure_skip_verify)",
                |m| &m.unverified,
            )
            .gauge("pipeops_agent_yamux_active_streams", "Streams open on the link", |m| &m.active_streams)
            .counter("pipeops_agent_websocket_reconnections", "Links established after one was lost", |m| {
                &m.reconnections
            })
            .counter("pipeops_agent_heartbeat_success", "Heartbeats sent", |m| &m.heartbeats)
            .counter("pipeops_agent_heartbeat_failures", "Heartbeats that could not be sent", |m| &m.heartbeat_failures)
            .counter(
                "pipeops_agent_heartbeat_skip_reconnecting",
                "Heartbeats that were due while there was no link",
                |m| &m.skipped_heartbeats,
            )
            .counters(
                "pipeops_agent_connection_state_changes",
                "Changes of the connection's state, by the new one",
                ("state", ConnectionState::NAMES),
                |m| &m.state_changes,
            )
            .counter("pipeops_agent_yamux_streams_accepted", "Streams the control plane has opened", |m| {
                &m.accepted_streams
            })
            .counters("pipeops_agent_yamux_stream_errors", "Streams that ended early", causes, |m| &m.stream_errors)
            .counters(
                "pipeops_agent_yamux_bytes",
                "Bytes carried by streams: in from the control plane, out towards it",
                ("direction", ["in", "out"]),
                |m| &m.bytes,
            )
            .registered()
    }

    pub fn state(&self, state: ConnectionState) {
        self.state.store(state as i64, Relaxed);
        let mut unlinked = self.unlinked.lock().unwrap_or_else(PoisonError::into_inner);
        *unlinked = (state != ConnectionState::Connected).then(|| unlinked.unwrap_or_else(Instant::now));
        drop(unlinked);
        if let Some(count) = self.state_changes.get(state as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    fn unlinked_for(&self) -> Duration {
        let unlinked = *self.unlinked.lock().unwrap_or_else(PoisonError::into_inner);
        unlinked.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub fn unverified(&self, unverified: bool) {
        self.unverified.store(unverified.into(), Relaxed);
    }

    pub fn reconnected(&self) {
        self.reconnections.fetch_add(1, Relaxed);
    }

    pub fn heartbeat(&self, sent: bool, took: Duration) {
        if sent { &self.heartbeats } else { &self.heartbeat_failures }.fetch_add(1, Relaxed);
        if let Some(durations) = &self.heartbeat_duration {
            durations.record(took.as_secs_f64(), &[]);
        }
    }

    pub fn heartbeat_skipped(&self) {
        self.skipped_heartbeats.fetch_add(1, Relaxed);
    }

    pub fn stream_opened(self: &Arc<Self>) -> OpenStream {
        self.accepted_streams.fetch_add(1, Relaxed);
        self.active_streams.fetch_add(1, Relaxed);
        OpenStream { metrics: Arc::clone(self), since: Instant::now() }
    }

    pub fn stream_failed(&self, why: StreamError) {
        if let Some(count) = self.stream_errors.get(why as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Left is the control plane.
    pub fn copied(&self, carried: Relayed) {
        let [incoming, outgoing] = &self.bytes;
        incoming.fetch_add(carried.from_left, Relaxed);
        outgoing.fetch_add(carried.from_right, Relaxed);
    }
}

/// One open stream; counted until dropped.
#[derive(Debug)]
pub struct OpenStream {
    metrics: Arc<Metrics>,
    since: Instant,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.metrics.active_streams.fetch_sub(1, Relaxed);
        if let Some(durations) = &self.metrics.stream_duration {
            durations.record(self.since.elapsed().as_secs_f64(), &[]);
        }
    }
}
