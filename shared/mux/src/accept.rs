use std::sync::{Arc, atomic::Ordering};

use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::{state::Shared, stream::MuxStream};

/// What the peer sends.
#[derive(Debug)]
pub struct Incoming {
    pub control: Control,
    pub streams: Streams,
}

/// Text messages of the peer, in order.
#[derive(Debug)]
pub struct Control {
    pub(crate) queue: mpsc::Receiver<Utf8Bytes>,
    pub(crate) shared: Arc<Shared>,
}

impl Control {
    /// The next message; `None` when the link has ended. Losing the future loses nothing.
    pub async fn recv(&mut self) -> Option<Utf8Bytes> {
        let text = self.queue.recv().await?;
        self.shared.control_bytes.fetch_sub(text.len(), Ordering::AcqRel);
        Some(text)
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
