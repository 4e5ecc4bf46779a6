pub(crate) mod state;

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use duplex::Duplex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::state::{EVICTED, FIN_IN, RST_IN, SHUT, StreamState};
use crate::closed::Closed;

/// One stream of the link.
///
/// - The end of reading is clean only after the peer's FIN; a reset is [`io::ErrorKind::ConnectionReset`], the end of
///   the link [`io::ErrorKind::ConnectionAborted`] with the [`Closed`] as its source, and so is the loss of a stream that
///   was left unread while [`Unread`](crate::Unread) was above its limit.
/// - `shutdown` ends our direction and leaves the other open.
/// - Dropped before both directions have ended, the stream is reset on the peer's side.
/// - `flush` does nothing: what is written is on its way.
/// - The peer learns of an opened stream with its first written byte, so whoever opens has to write first.
pub struct MuxStream {
    state: Arc<StreamState>,
    /// What `poll_read` has left of a piece.
    rest: Bytes,
}

impl fmt::Debug for MuxStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MuxStream").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl MuxStream {
    pub(crate) fn new(state: Arc<StreamState>) -> Self {
        Self { state, rest: Bytes::new() }
    }

    /// The yamux stream id: odd when the agent opened it, even when the control plane did.
    pub fn id(&self) -> u32 {
        self.state.id
    }

    /// [`poll_chunk`](Duplex::poll_chunk) as a future; losing it loses nothing.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    pub(crate) fn was_reset(&self) -> bool {
        self.state.has(RST_IN) || self.state.has(EVICTED)
    }

    pub(crate) fn acknowledge(&self) {
        self.state.acknowledge();
    }

    fn read_end(&self) -> io::Result<()> {
        if self.state.has(FIN_IN) && !self.state.has(EVICTED) {
            self.state.read_out();
            return Ok(());
        }
        Err(self.abandoned())
    }

    fn broken(&self) -> io::Error {
        if self.state.has(SHUT) && !self.was_reset() {
            return io::Error::new(io::ErrorKind::BrokenPipe, "stream was shut down for writing");
        }
        self.abandoned()
    }

    fn abandoned(&self) -> io::Error {
        if self.state.has(EVICTED) {
            return io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "stream given up here: its data was left unread while that of all streams was above the limit",
            );
        }
        if self.state.has(RST_IN) {
            return io::Error::new(io::ErrorKind::ConnectionReset, "stream reset by the peer");
        }
        io::Error::new(io::ErrorKind::ConnectionAborted, self.state.shared.why_closed().unwrap_or(Closed::Dropped))
    }
}

impl Duplex for MuxStream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        match ready!(self.state.poll_piece(cx)) {
            Some(piece) => Poll::Ready(Ok(Some(piece))),
            None => Poll::Ready(self.read_end().map(|()| None)),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.state.poll_abandoned(cx).map(|()| self.abandoned())
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(mut piece) = ready!(self.poll_chunk(cx))? {
            let n = buf.remaining().min(piece.len());
            buf.put_slice(&piece.split_to(n));
            self.rest = piece;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(ready!(self.state.poll_write(cx, bufs)).ok_or_else(|| self.broken()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(if self.state.shut() { Ok(()) } else { Err(self.broken()) })
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        self.state.close();
    }
}
