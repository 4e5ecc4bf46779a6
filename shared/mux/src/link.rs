use std::sync::Arc;

use tokio::sync::{TryAcquireError, mpsc};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    closed::{Closed, OpenError},
    config::Windows,
    state::{Shared, lock},
    stats::Stats,
    stream::MuxStream,
};

/// A handle to the link. Dropping the last one does not end it.
#[derive(Debug, Clone)]
pub struct Link {
    pub(crate) shared: Arc<Shared>,
    pub(crate) texts: mpsc::Sender<String>,
    pub(crate) bulk: mpsc::Sender<String>,
}

impl Link {
    /// Queues a text message; waits while the queue is full. It leaves before any stream data that is not yet in the
    /// WebSocket's own buffer.
    pub async fn send(&self, text: String) -> Result<(), Closed> {
        self.texts.send(text).await.map_err(|_| self.why_closed())
    }

    /// As [`send`](Self::send), for text messages that carry what users send each other: only a few wait here, in the
    /// order in which they came, and all of `send` overtake them. So they neither delay what the link itself has to say
    /// nor keep those who say it waiting.
    pub async fn send_bulk(&self, text: String) -> Result<(), Closed> {
        self.bulk.send(text).await.map_err(|_| self.why_closed())
    }

    /// From now on the peer's control messages carry bulk as well. Where they come faster than they are taken, they wait
    /// in the socket, and with them the rest of the link, instead of ending it. For a consumer that waits for nobody.
    pub fn expect_bulk(&self) {
        self.shared.expect_bulk();
    }

    /// From now on binary messages are the yamux session; before, they are control messages. The agent calls it
    /// before it sends the message that agrees to streams, the control plane when it has received that. The first
    /// call decides about the windows.
    pub fn start_streams(&self, windows: Windows) {
        self.shared.start(windows);
    }

    /// Whether binary messages are the yamux session.
    pub fn carries_streams(&self) -> bool {
        self.shared.is_started()
    }

    /// Opens a stream. Costs no bytes on the link: the peer learns of it with the first write. Waits while the peer
    /// has 256 streams that it has not acknowledged.
    pub async fn open(&self) -> Result<MuxStream, OpenError> {
        self.shared.may_open(&lock(&self.shared.table))?;
        let Ok(permit) = self.shared.backlog.acquire().await else {
            return Err(self.why_not_open());
        };
        let stream = self.shared.open()?;
        // Given back when the peer acknowledges the stream, or it is gone.
        permit.forget();
        Ok(stream)
    }

    /// As [`open`](Self::open), but `None` instead of waiting.
    pub fn try_open(&self) -> Result<Option<MuxStream>, OpenError> {
        self.shared.may_open(&lock(&self.shared.table))?;
        match self.shared.backlog.try_acquire() {
            Ok(permit) => {
                let stream = self.shared.open()?;
                permit.forget();
                Ok(Some(stream))
            }
            Err(TryAcquireError::NoPermits) => Ok(None),
            Err(TryAcquireError::Closed) => Err(self.why_not_open()),
        }
    }

    /// Ends the link: every stream ends at once, text already queued and stream data already on its way out are sent,
    /// then the peer is told. To lose no stream data, wait until the streams have ended. A reason above 123 bytes is
    /// cut.
    pub fn close(&self, code: CloseCode, reason: &'static str) {
        self.shared.request_close(code, reason);
    }

    pub fn stats(&self) -> Stats {
        self.shared.counters.read()
    }

    /// Resolves as soon as the link has ended, before the closing handshake.
    pub async fn closed(&self) -> Closed {
        self.shared.closed().await
    }

    /// Nobody waits any more for the peer to acknowledge streams.
    fn why_not_open(&self) -> OpenError {
        let refused = self.shared.may_open(&lock(&self.shared.table)).err();
        refused.unwrap_or_else(|| OpenError::Closed(self.why_closed()))
    }

    fn why_closed(&self) -> Closed {
        self.shared.why_closed().unwrap_or(Closed::Dropped)
    }
}
