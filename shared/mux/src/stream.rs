use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use duplex::Duplex;
use futures::{Stream as _, io::AsyncRead as _, io::AsyncWrite as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    closed::Closed,
    state::{Shared, lock},
    transport::{DROPPED, FIN_IN, READ_OUT, RST_IN, SHUT, StreamState},
};

/// One stream of the link.
///
/// - The end of reading is clean only after the peer's FIN; a reset is [`io::ErrorKind::ConnectionReset`], the end of
///   the link [`io::ErrorKind::ConnectionAborted`] with the [`Closed`] as its source.
/// - `shutdown` ends our direction and leaves the other open.
/// - Dropped before both directions have ended, the stream is reset on the peer's side.
/// - `flush` does nothing: what is written is on its way.
/// - The peer learns of an opened stream with its first written byte, so whoever opens has to write first.
pub struct MuxStream {
    inner: yamux::Stream,
    state: Arc<StreamState>,
    shared: Arc<Shared>,
}

impl fmt::Debug for MuxStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MuxStream").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl MuxStream {
    pub(crate) fn new(inner: yamux::Stream, state: Arc<StreamState>, shared: Arc<Shared>) -> Self {
        Self { inner, state, shared }
    }

    /// The yamux stream id: odd when the agent opened it, even when the control plane did.
    pub fn id(&self) -> u32 {
        self.inner.id().val()
    }

    /// [`poll_chunk`](Duplex::poll_chunk) as a future; losing it loses nothing.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    pub(crate) fn was_reset(&self) -> bool {
        self.state.has(RST_IN)
    }

    /// Tells the peer that the stream was taken; hashicorp/yamux closes its session when that takes over 75 s, and
    /// both implementations stop opening after 256 that were not. A fresh stream always has room for the frame.
    pub(crate) fn acknowledge(&mut self) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = Pin::new(&mut self.inner).poll_write(&mut cx, &[]);
    }

    fn read_end(&self) -> io::Result<()> {
        if self.state.has(FIN_IN) {
            self.state.set(READ_OUT);
            return Ok(());
        }
        Err(self.abandoned())
    }

    fn broken(&self) -> io::Error {
        if self.state.has(SHUT) && !self.state.has(RST_IN) {
            return io::Error::new(io::ErrorKind::BrokenPipe, "stream was shut down for writing");
        }
        self.abandoned()
    }

    fn abandoned(&self) -> io::Error {
        if self.state.has(RST_IN) {
            return io::Error::new(io::ErrorKind::ConnectionReset, "stream reset by the peer");
        }
        io::Error::new(io::ErrorKind::ConnectionAborted, self.shared.why_closed().unwrap_or(Closed::Dropped))
    }
}

impl Duplex for MuxStream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                // What `poll_read` has left of a piece it read to its end.
                Some(Ok(packet)) if packet.as_ref().is_empty() => {}
                Some(Ok(packet)) => return Poll::Ready(Ok(Some(Bytes::from_owner(packet)))),
                Some(Err(_)) | None => return Poll::Ready(self.read_end().map(|()| None)),
            }
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.state.poll_abandoned(cx).map(|()| self.abandoned())
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let space = buf.initialize_unfilled();
        if space.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match ready!(Pin::new(&mut self.inner).poll_read(cx, space)) {
            Ok(0) | Err(_) => Poll::Ready(self.read_end()),
            Ok(n) => {
                buf.advance(n);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(ready!(Pin::new(&mut self.inner).poll_write(cx, buf)).map_err(|_| self.broken()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.has(SHUT) {
            return Poll::Ready(Ok(()));
        }
        if self.inner.is_closed() {
            // By a reset or with the link; yamux would call that a success.
            return Poll::Ready(Err(self.broken()));
        }
        match ready!(Pin::new(&mut self.inner).poll_close(cx)) {
            // Only now: until the FIN is queued, a drop is an abort.
            Ok(()) => self.state.set(SHUT),
            Err(_) => return Poll::Ready(Err(self.broken())),
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        self.state.set(DROPPED);
        lock(&self.shared.dropped).push(self.id());
        // Dropping `inner` after this wakes the driver.
    }
}
