use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
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
    pub(crate) texts: mpsc::Sender<Text>,
    /// A permit for each byte of bulk that may wait among the texts.
    pub(crate) bulk: Arc<Semaphore>,
}

/// A text message on its way.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) text: String,
    /// Given back when the message is handed to the WebSocket.
    _bulk: Option<OwnedSemaphorePermit>,
}

/// Bytes of bulk that may wait among the texts: what comes after it waits no longer than these take.
pub(crate) const BULK: usize = 256 * 1024;
/// What the smallest message counts as, so that bulk never takes all places of the queue.
const LEAST: usize = 4 * 1024;

impl Link {
    /// Queues a text message; waits while the queue is full. It leaves before any stream data that is not yet in the
    /// WebSocket's own buffer.
    pub async fn send(&self, text: String) -> Result<(), Closed> {
        self.texts.send(Text { text, _bulk: None }).await.map_err(|_| self.why_closed())
    }

    /// As [`send`](Self::send), for messages that carry data: waits also while others like it are on their way, so that
    /// neither their size nor their number delays the messages that keep the link alive. Who waits longest is next.
    pub async fn send_bulk(&self, text: String) -> Result<(), Closed> {
        let bytes = u32::try_from(text.len().clamp(LEAST, BULK)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bulk).acquire_many_owned(bytes).await.map_err(|_| self.why_closed())?;
        self.texts.send(Text { text, _bulk: Some(permit) }).await.map_err(|_| self.why_closed())
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
            self.shared.may_open(&lock(&self.shared.table))?;
            return Err(OpenError::Closed(self.why_closed()));
        };
        let stream = self.shared.open()?;
        // Given back when the peer acknowledges the stream, or it is gone.
        permit.forget();
        Ok(stream)
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

    fn why_closed(&self) -> Closed {
        self.shared.why_closed().unwrap_or(Closed::Dropped)
    }
}
