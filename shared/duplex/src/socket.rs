use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::Duplex;

/// A read that may find little goes through one buffer of the thread, and what came is copied to its size.
const SCRATCH: usize = 8 * 1024;
/// Once that buffer was filled, reads go straight into a piece of this size.
const LARGE: usize = 32 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// A TCP or TLS connection as a [`Duplex`]. Holds no buffer while it waits. That the peer gave up while bytes wait unread
/// shows only when something is written: TCP delivers the end behind them.
#[derive(Debug)]
pub struct Socket<T> {
    io: T,
    /// Why a write failed: TCP does that only once the peer takes nothing and sends nothing any more.
    gone: Option<ErrorKind>,
    /// Where a bulk transfer reads to; none in any other case.
    large: Option<BytesMut>,
}

impl<T> Socket<T> {
    #[must_use]
    pub fn new(io: T) -> Self {
        Self { io, gone: None, large: None }
    }

    /// The connection. What was received and not yet asked for is still in it.
    pub fn into_inner(self) -> T {
        self.io
    }

    pub fn get_ref(&self) -> &T {
        &self.io
    }

    fn wrote<R>(&mut self, result: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if let Poll::Ready(Err(error)) = &result {
            self.gone = Some(error.kind());
        }
        result
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for Socket<T> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Some(large) = &mut self.large {
            large.reserve(LARGE / 2);
            match poll_read_buf(Pin::new(&mut self.io), cx, large) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(_)) => return Poll::Ready(Ok(Some(large.split().freeze()))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.large = None;
                    return Poll::Pending;
                }
            }
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            let filled = read.filled();
            if filled.is_empty() {
                return Poll::Ready(Ok(None));
            }
            if filled.len() == SCRATCH {
                self.large = Some(BytesMut::with_capacity(LARGE));
            }
            Poll::Ready(Ok(Some(Bytes::copy_from_slice(filled))))
        })
    }

    fn poll_reset(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        // Whoever asks learns of a failed write by itself, and asks again then.
        self.gone.map_or(Poll::Pending, |kind| Poll::Ready(kind.into()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Socket<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.wrote(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
