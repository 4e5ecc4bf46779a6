use std::{sync::Arc, time::Duration};

use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::unread::Unread;

/// What each end may send on a new stream (hashicorp/yamux, spec.md).
pub(crate) const INITIAL_WINDOW: u32 = 256 * 1024;

/// Bytes of stream data gathered for one WebSocket message; streams wait above it.
pub(crate) const OUT_LIMIT: usize = 64 * 1024;

/// Bulk messages that may wait to be sent.
pub(crate) const BULK: usize = 8;

/// Largest body of a data frame that we send.
pub(crate) const SPLIT: usize = 16 * 1024;

/// How long a frame that only acknowledges a stream may wait for company.
pub(crate) const LAZY: Duration = Duration::from_millis(5);

/// Each WebSocket read zeroes this much buffer first, so it is a trade of bulk against small messages.
const READ_BUFFER: usize = 32 * 1024;

/// Limits and timers of one link.
#[derive(Debug, Clone)]
pub struct Config {
    /// Largest WebSocket message accepted, bytes. A bigger one closes the link with 1009.
    pub max_message: usize,
    /// Streams open at once, both directions together. `open` fails and an incoming stream is reset above it.
    /// Values above 65,536 count as 65,536.
    pub max_streams: usize,
    /// Streams that may wait for [`Streams::recv`](crate::Streams::recv); one more is reset.
    pub accept_queue: usize,
    /// Text messages that may wait, in each direction; one more incoming closes the link with 1008.
    pub control_queue: usize,
    /// Bytes of text messages that may wait for [`Control::recv`](crate::Control::recv); more closes the link with 1008.
    pub control_bytes: usize,
    /// A WebSocket ping is sent this often.
    pub ping_interval: Duration,
    /// The link is dead when nothing at all was heard for this long, or when the peer took nothing of what we send.
    pub dead_after: Duration,
    /// How long the closing handshake may take before the socket is dropped.
    pub close_timeout: Duration,
    /// With [`Windows::Tuned`], bytes that all streams together may have in their windows beyond 256 KiB each, up to 1 GiB.
    /// One has at most half of it, and a quarter of what [`Unread`] allows.
    pub stream_window_total: usize,
    /// Limits what all streams together may leave unread, over all links that are given the same.
    pub unread: Arc<Unread>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_message: 4 << 20,
            max_streams: 4096,
            accept_queue: 1024,
            control_queue: 256,
            control_bytes: 16 << 20,
            ping_interval: Duration::from_secs(10),
            dead_after: Duration::from_secs(20),
            close_timeout: Duration::from_secs(2),
            stream_window_total: 64 << 20,
            unread: Arc::new(Unread::limited(64 << 20)),
        }
    }
}

impl Config {
    /// What to give to the WebSocket handshake so that the limits here hold and buffers have the right sizes.
    pub fn websocket(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(2 * OUT_LIMIT)
            .max_message_size(Some(self.max_message))
            .max_frame_size(Some(self.max_message))
    }

    pub(crate) fn max_streams(&self) -> usize {
        self.max_streams.clamp(1, 1 << 16)
    }
}

/// Which end of the link this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// yamux client: the streams that it opens have odd ids.
    Agent,
    /// yamux server. Opens the streams.
    ControlPlane,
}

/// How large the receive windows of streams may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// 256 KiB each. The only safe choice with a peer that does not split its writes: hashicorp/yamux sends one frame
    /// as large as the window, and a message has its limit.
    Fixed,
    /// Doubled for streams whose reader keeps up, as long as there is room for that. For peers that run this crate.
    Tuned,
}
