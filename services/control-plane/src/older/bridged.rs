//! What goes through the link as messages, as the byte stream that the rest of the process knows.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use duplex::{Duplex, Socket};
use tokio::io::{AsyncWrite, DuplexStream};
use tokio::task::JoinSet;

/// Between the stream and what makes messages of it, in each direction.
const PIPE: usize = 16 * 1024;

/// A stream, and the task that makes messages of it.
#[derive(Debug)]
pub struct Bridged {
    pipe: Socket<DuplexStream>,
    bridge: JoinSet<io::Result<()>>,
}

/// Its end, and the bridge's.
pub fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(PIPE)
}

impl Bridged {
    /// `bridge` carries what comes through `near`'s other end, to the end of either; its error is one of the cluster's side.
    pub fn new(near: DuplexStream, bridging: impl Future<Output = io::Result<()>> + Send + 'static) -> Self {
        let mut bridge = JoinSet::new();
        bridge.spawn(bridging);
        Self { pipe: Socket::new(near), bridge }
    }

    /// Why the cluster's side ended, once it has; nothing if it just did.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match ready!(self.bridge.poll_join_next(cx)) {
            Some(Ok(ended)) => ended,
            Some(Err(died)) => Err(io::Error::other(died)),
            None => Ok(()),
        })
    }
}

impl Duplex for Bridged {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match ready!(self.pipe.poll_chunk(cx)) {
            Ok(None) => Poll::Ready(ready!(self.poll_ended(cx)).map(|()| None)),
            chunk => Poll::Ready(chunk),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match ready!(self.poll_ended(cx)) {
            Err(error) => Poll::Ready(error),
            Ok(()) => Poll::Pending,
        }
    }
}

impl AsyncWrite for Bridged {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.pipe.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
