use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use opentelemetry::metrics::Meter;
use runtime::instruments::Instruments;

use super::WebSocketMetrics;

/// Why a message had no effect; the label of `pipeops_agent_proxied_unused_messages_total`.
#[derive(Clone, Copy, Debug)]
pub enum Unused {
    /// It belongs to no exchange under way: late, or never begun.
    Unknown,
    /// Its exchange has no use for it, such as a body's piece behind the body's end.
    OutOfOrder,
    Malformed,
}

/// Of exchanges that are messages.
#[derive(Debug, Default)]
pub struct ExchangeMetrics {
    active: AtomicI64,
    begun: AtomicU64,
    failed: AtomicU64,
    active_websockets: AtomicI64,
    begun_websockets: AtomicU64,
    backpressure: AtomicU64,
    unused: [AtomicU64; 3],
    pub websockets: Arc<WebSocketMetrics>,
}

impl ExchangeMetrics {
    pub(super) fn register(meter: &Meter) -> Arc<Self> {
        let values = Arc::new(Self { websockets: WebSocketMetrics::register(meter), ..Self::default() });
        Instruments::of(meter, &values)
            .gauge("pipeops_agent_proxied_exchanges_active", "Requests and tunnels that are messages, under way", |m| {
                &m.active
            })
            .counter("pipeops_agent_proxied_exchanges", "Requests and tunnels that came as messages", |m| &m.begun)
            .counter("pipeops_agent_proxied_errors", "Of these, those that ended with an error", |m| &m.failed)
            .gauge("pipeops_agent_websocket_proxy_active_streams", "WebSockets that are messages, open", |m| {
                &m.active_websockets
            })
            .counter("pipeops_agent_websocket_proxy_streams", "WebSockets that came as messages", |m| {
                &m.begun_websockets
            })
            .counter("agent_websocket_backpressure_events", "Exchanges whose queue was half full", |m| &m.backpressure)
            .counters(
                "pipeops_agent_proxied_unused_messages",
                "Messages of exchanges that had no effect",
                ("reason", ["unknown", "out_of_order", "malformed"]),
                |m| &m.unused,
            )
            .registered()
    }

    pub fn begun(self: &Arc<Self>, websocket: bool) -> OpenExchange {
        self.begun.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        if websocket {
            self.begun_websockets.fetch_add(1, Relaxed);
            self.active_websockets.fetch_add(1, Relaxed);
        }
        OpenExchange { metrics: Arc::clone(self), websocket }
    }

    pub fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub fn backpressure(&self) {
        self.backpressure.fetch_add(1, Relaxed);
    }

    pub fn unused(&self, why: Unused) {
        if let Some(count) = self.unused.get(why as usize) {
            count.fetch_add(1, Relaxed);
        }
    }
}

/// One exchange under way; counted until dropped.
#[derive(Debug)]
pub struct OpenExchange {
    metrics: Arc<ExchangeMetrics>,
    websocket: bool,
}

impl Drop for OpenExchange {
    fn drop(&mut self) {
        self.metrics.active.fetch_sub(1, Relaxed);
        if self.websocket {
            self.metrics.active_websockets.fetch_sub(1, Relaxed);
        }
    }
}
