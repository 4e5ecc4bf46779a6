use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::{state::Shared, stream::MuxStream};

/// What the peer sends.
#[derive(Debug)]
pub struct Incoming {
    pub control: Control,
    pub streams: Streams,
}

/// A message of the peer that is not part of the yamux session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlFrame {
    Text(Utf8Bytes),
    /// Only before [`Link::start_streams`](crate::Link::start_streams).
    Binary(Bytes),
}

impl ControlFrame {
    /// Its text: also that of a binary one that begins as a JSON object does, as which some peers send their messages.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(bytes) if bytes.first() == Some(&b'{') => std::str::from_utf8(bytes).ok(),
            Self::Binary(_) => None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// Messages of the peer, in order.
#[derive(Debug)]
pub struct Control {
    pub(crate) queue: mpsc::Receiver<ControlFrame>,
    pub(crate) shared: Arc<Shared>,
}

impl Control {
    /// The next message; `None` when the link has ended. Losing the future loses nothing.
    pub async fn recv(&mut self) -> Option<ControlFrame> {
        let message = self.queue.recv().await?;
        self.shared.took_control(message.len(), self.queue.len(), self.queue.max_capacity());
        Some(message)
    }
}

/// Streams that the peer opened.
#[derive(Debug)]
pub struct Streams {
    pub(crate) queue: mpsc::Receiver<MuxStream>,
}

impl Streams {
    /// The next stream; `None` when the link has ended. Those that the peer has reset meanwhile are passed over.
    /// Losing the future loses nothing.
    pub async fn recv(&mut self) -> Option<MuxStream> {
        loop {
            let stream = self.queue.recv().await?;
            if !stream.was_reset() {
                stream.acknowledge();
                return Some(stream);
            }
        }
    }
}
