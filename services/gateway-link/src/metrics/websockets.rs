//! Of WebSockets that are messages. One that comes in a stream is bytes here, whose frames nobody looks at.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter};
use protocol::Target;
use protocol::message::proxied::Opcode;
use runtime::instruments::Instruments;
use tokio::time::Instant;

/// Why a WebSocket did not come about or ended early; the label of `pipeops_agent_websocket_proxy_errors_total`.
#[derive(Clone, Copy, Debug)]
pub enum WebSocketFailure {
    /// It was not even begun.
    Refused,
    Dial,
    Copy,
    /// It was ended from here: what it was sent did not fit or made no sense, or the agent ends.
    Stopped,
}

/// Why a message was not carried on; the label of `agent_websocket_dropped_frames_total`.
#[derive(Clone, Copy, Debug)]
pub enum Dropped {
    /// Its WebSocket is not, or no more.
    Unknown,
    /// It came behind the end.
    Late,
    /// As much waits as may.
    Full,
    Malformed,
}

/// The names are the existing agent's.
const KINDS: [&str; 4] = ["data", "ping", "pong", "close"];
const DIRECTIONS: [&str; 2] = ["sent", "received"];

/// What ends a WebSocket, by the numbers of RFC 6455: there 1005 is a close without a number, 1006 none at all.
const CODES: [&str; 12] =
    ["1000", "1001", "1002", "1003", "1005", "1006", "1007", "1008", "1009", "1010", "1011", "other"];
const UNNUMBERED: u16 = 1005;
const NO_CLOSE: u16 = 1006;

/// Services that have a label of their own.
const SERVICES: usize = 100;
/// All others.
const OTHER: (&str, &str) = ("other", "other");
/// Of the API server itself: what it is called as a Service.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

#[derive(Debug, Default)]
pub struct WebSocketMetrics {
    active: AtomicI64,
    sessions: AtomicU64,
    closes: [AtomicU64; 12],
    /// By direction and kind.
    frames: [[AtomicU64; 4]; 2],
    bytes: [AtomicU64; 2],
    dropped: [AtomicU64; 4],
    failures: [AtomicU64; 4],
    sizes: Option<Histogram<u64>>,
    durations: Option<Histogram<f64>>,
    services: Services,
}

/// Bytes by direction.
type Bytes = Arc<[AtomicU64; 2]>;
/// By namespace and name.
type ByService = HashMap<(String, String), Bytes>;

#[derive(Debug, Default)]
struct Services(Mutex<ByService>);

impl Services {
    fn lock(&self) -> MutexGuard<'_, ByService> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` is the API server.
    fn of(&self, target: Option<&Target>) -> Bytes {
        let (namespace, service) = target.map_or(API_SERVER, |target| (target.namespace(), target.service()));
        let mut services = self.lock();
        let name = (namespace.to_owned(), service.to_owned());
        let fixed = |(namespace, service): (&str, &str)| (namespace.to_owned(), service.to_owned());
        let has_place = target.is_none() || services.len() < SERVICES || services.contains_key(&name);
        Arc::clone(services.entry(if has_place { name } else { fixed(OTHER) }).or_default())
    }

    fn all(&self, direction: usize) -> Vec<(u64, [KeyValue; 2])> {
        let of = |((namespace, service), bytes): (&(String, String), &Bytes)| {
            let labels = [KeyValue::new("namespace", namespace.clone()), KeyValue::new("service", service.clone())];
            Some((bytes.get(direction)?.load(Relaxed), labels))
        };
        self.lock().iter().filter_map(of).collect()
    }
}

impl WebSocketMetrics {
    pub(super) fn register(meter: &Meter) -> Arc<Self> {
        let sizes = meter
            .u64_histogram("agent_websocket_frame_bytes_histogram")
            .with_description("Sizes of messages of WebSockets; of those in streams nobody knows them")
            .with_boundaries((6u8..22).map(|power| f64::from(1u32 << power)).collect())
            .build();
        let durations = meter
            .f64_histogram("agent_websocket_session_duration_seconds")
            .with_description("How long WebSockets that are messages were open")
            .with_boundaries((0u8..12).map(|power| f64::from(1u32 << power)).collect())
            .build();
        let values = Arc::new(Self { sizes: Some(sizes), durations: Some(durations), ..Self::default() });
        let seen = Arc::clone(&values);
        let _frames = meter
            .u64_observable_counter("agent_websocket_frames")
            .with_description(
                "Messages of WebSockets: sent to the Service or API server, received from it. Those of WebSockets in \
                 streams are not told apart",
            )
            .with_callback(move |observer| {
                for (direction, kinds) in DIRECTIONS.iter().zip(&seen.frames) {
                    for (kind, count) in KINDS.iter().zip(kinds) {
                        let labels = [KeyValue::new("direction", *direction), KeyValue::new("type", *kind)];
                        observer.observe(count.load(Relaxed), &labels);
                    }
                }
            })
            .build();
        let services = [
            ("pipeops_agent_websocket_proxy_bytes_to_service", "Bytes of messages of WebSockets, to each Service"),
            ("pipeops_agent_websocket_proxy_bytes_from_service", "Bytes of messages of WebSockets, from each Service"),
        ];
        for (direction, (name, description)) in services.into_iter().enumerate() {
            let seen = Arc::clone(&values);
            let _bytes = meter
                .u64_observable_counter(name)
                .with_description(format!(
                    "{description}: default/kubernetes is the API server, other/other is beyond the first {SERVICES}"
                ))
                .with_callback(move |observer| {
                    for (bytes, labels) in seen.services.all(direction) {
                        observer.observe(bytes, &labels);
                    }
                })
                .build();
        }
        Instruments::of(meter, &values)
            .gauge("agent_websocket_active_sessions", "WebSockets that are messages and have come about", |m| &m.active)
            .counter("agent_websocket_sessions", "WebSockets that are messages and came about", |m| &m.sessions)
            .counters(
                "agent_websocket_session_close",
                "Of these, those that ended, by the code of the close: 1005 without one, 1006 without a close",
                ("code", CODES),
                |m| &m.closes,
            )
            .counters(
                "agent_websocket_frame_bytes",
                "Bytes of messages of WebSockets: sent to the Service or API server, received from it",
                ("direction", DIRECTIONS),
                |m| &m.bytes,
            )
            .counters(
                "agent_websocket_dropped_frames",
                "Messages of WebSockets that were not carried on",
                ("reason", ["unknown", "late", "full", "malformed"]),
                |m| &m.dropped,
            )
            .counters(
                "pipeops_agent_websocket_proxy_errors",
                "WebSockets that are messages and did not come about or ended early",
                ("error_type", ["refused", "dial_error", "copy_error", "stopped"]),
                |m| &m.failures,
            )
            .registered()
    }

    pub fn failed(&self, why: WebSocketFailure) {
        if let Some(count) = self.failures.get(why as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub fn dropped(&self, why: Dropped) {
        if let Some(count) = self.dropped.get(why as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// One has come about, with this Service; `None` is the API server.
    pub fn opened(self: &Arc<Self>, target: Option<&Target>) -> OpenWebSocket {
        self.sessions.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        OpenWebSocket {
            service: self.services.of(target),
            metrics: Arc::clone(self),
            since: Instant::now(),
            code: AtomicU16::new(NO_CLOSE),
        }
    }
}

/// One open WebSocket; counted until dropped.
#[derive(Debug)]
pub struct OpenWebSocket {
    metrics: Arc<WebSocketMetrics>,
    service: Bytes,
    since: Instant,
    code: AtomicU16,
}

impl OpenWebSocket {
    /// To the Service.
    pub fn sent(&self, opcode: Opcode, bytes: &[u8]) {
        let [frames, _] = &self.metrics.frames;
        let ([total, _], [of_service, _]) = (&self.metrics.bytes, &*self.service);
        self.count(opcode, bytes, frames, [total, of_service]);
    }

    /// From the Service.
    pub fn received(&self, opcode: Opcode, bytes: &[u8]) {
        let [_, frames] = &self.metrics.frames;
        let ([_, total], [_, of_service]) = (&self.metrics.bytes, &*self.service);
        self.count(opcode, bytes, frames, [total, of_service]);
    }

    pub fn dropped(&self, why: Dropped) {
        self.metrics.dropped(why);
    }

    fn count(&self, opcode: Opcode, bytes: &[u8], [data, ping, pong, close]: &[AtomicU64; 4], sums: [&AtomicU64; 2]) {
        let frames = match opcode {
            Opcode::Text | Opcode::Binary => data,
            Opcode::Ping => ping,
            Opcode::Pong => pong,
            Opcode::Close => {
                let code = bytes.first_chunk().map_or(UNNUMBERED, |code| u16::from_be_bytes(*code));
                // The first tells why it ends; the other side's is its echo.
                let _ended = self.code.compare_exchange(NO_CLOSE, code, Relaxed, Relaxed);
                close
            }
        };
        frames.fetch_add(1, Relaxed);
        let size = bytes.len() as u64;
        for sum in sums {
            sum.fetch_add(size, Relaxed);
        }
        if let Some(sizes) = &self.metrics.sizes {
            sizes.record(size, &[]);
        }
    }
}

impl Drop for OpenWebSocket {
    fn drop(&mut self) {
        let metrics = &self.metrics;
        metrics.active.fetch_sub(1, Relaxed);
        if let Some(durations) = &metrics.durations {
            durations.record(self.since.elapsed().as_secs_f64(), &[]);
        }
        let code = self.code.load(Relaxed).to_string();
        let [.., other] = &metrics.closes;
        let known = CODES.iter().zip(&metrics.closes).find(|(name, _)| **name == code);
        known.map_or(other, |(_, count)| count).fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_labels_than_may_be() {
        let metrics = Arc::new(WebSocketMetrics::default());
        for n in 0..3 * SERVICES {
            let target = Target::new("shop", &format!("web-{n}"), 80).unwrap();
            let open = metrics.opened(Some(&target));
            open.sent(Opcode::Text, b"hi");
            open.received(Opcode::Binary, b"again");
        }
        metrics.opened(None).sent(Opcode::Text, b"kubectl");
        assert_eq!(metrics.services.lock().len(), SERVICES + 2, "each, others, the API server");
        let of = |direction: usize, wanted: &str| {
            let all = metrics.services.all(direction);
            all.iter().find(|(_, [_, service])| service.value.as_str() == wanted).map(|(bytes, _)| *bytes)
        };
        assert_eq!((of(0, "web-0"), of(1, "web-0")), (Some(2), Some(5)));
        assert_eq!((of(0, "other"), of(0, "kubernetes")), (Some(2 * 2 * SERVICES as u64), Some(7)));
    }

    #[test]
    fn a_websocket_ends_with_the_code_that_was_said_first() {
        let metrics = Arc::new(WebSocketMetrics::default());
        for closes in [&[][..], &[b"".as_slice()], &[b"\x03\xe8bye", b"\x03\xe9"], &[b"\x0f\xa0"]] {
            let open = metrics.opened(None);
            for close in closes {
                open.received(Opcode::Close, close);
            }
        }
        let ended: Vec<_> = CODES.iter().zip(&metrics.closes).filter(|(_, count)| count.load(Relaxed) == 1).collect();
        let ended: Vec<_> = ended.into_iter().map(|(code, _)| *code).collect();
        assert_eq!(ended, ["1000", "1005", "1006", "other"]);
        assert_eq!(metrics.active.load(Relaxed), 0);
    }
}
