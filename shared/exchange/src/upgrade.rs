use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use duplex::Duplex;
use tokio::io::AsyncWrite;

/// The transport after a 101. What had already been read from it comes first.
#[derive(Debug)]
pub struct Upgraded<T> {
    /// From here on it carries the other protocol.
    pub io: T,
    /// The first bytes of it.
    pub read_ahead: Bytes,
}

impl<T: Duplex> Duplex for Upgraded<T> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.read_ahead.is_empty() {
            return self.io.poll_chunk(cx);
        }
        Poll::Ready(Ok(Some(std::mem::take(&mut self.read_ahead))))
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.io.poll_reset(cx)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Upgraded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Where a service leaves what is to happen after its 101: the upstream half of a session, for instance.
#[derive(Debug)]
pub struct UpgradeSlot<U>(Arc<Mutex<Option<U>>>);

impl<U> UpgradeSlot<U> {
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// What a 101 that follows is to be given back with.
    pub fn put(&self, upgrade: U) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade);
    }

    pub(crate) fn take(&self) -> Option<U> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<U> Default for UpgradeSlot<U> {
    fn default() -> Self {
        Self::new()
    }
}

impl<U> Clone for UpgradeSlot<U> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
