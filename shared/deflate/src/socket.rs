use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::answer::Answer;
use crate::reader::{Reader, hand_on};
use crate::writer::Writer;

/// A connection below a WebSocket, which compresses if both ends want that.
#[derive(Debug)]
pub struct Deflated<S> {
    inner: S,
    layer: Layer,
}

#[derive(Debug)]
enum Layer {
    /// What comes is passed on.
    None,
    /// The same, once this has been read.
    Behind(Bytes),
    Handshake(Box<Answer>),
    Frames(Box<Frames>),
}

#[derive(Debug)]
struct Frames {
    reader: Reader,
    writer: Writer,
}

/// The handshake has ended, and it is not known where.
#[derive(Debug, thiserror::Error)]
#[error("the answer to the handshake has no end that can be found")]
pub struct NoHead;

impl<S> Deflated<S> {
    /// Without compression, in either role: all passes.
    pub fn plain(inner: S) -> Self {
        Self { inner, layer: Layer::None }
    }

    /// For a client that has the handshake before it, and offers [`OFFER`](crate::OFFER) there.
    /// [`settle`](Self::settle) has to follow before anything else is read.
    pub fn offering(inner: S) -> Self {
        Self { inner, layer: Layer::Handshake(Box::default()) }
    }

    /// For a server whose handshake is over, with the answer of [`accept`](crate::accept). `behind` has been read already;
    /// a message may have `limit` bytes, unpacked.
    pub fn accepted(inner: S, behind: Bytes, limit: usize) -> Self {
        Self { inner, layer: Layer::frames(true, limit, behind) }
    }

    /// The client's handshake is over. With a limit, the server has accepted: a message may have so many bytes, unpacked.
    ///
    /// # Errors
    /// When the server has accepted an offer that was not made by [`offering`](Self::offering), or its answer has no end.
    pub fn settle(&mut self, limit: Option<usize>) -> Result<(), NoHead> {
        let behind = match std::mem::replace(&mut self.layer, Layer::None) {
            Layer::Handshake(answer) if answer.is_whole() => answer.behind,
            _ if limit.is_some() => return Err(NoHead),
            _ => return Ok(()),
        };
        self.layer = match limit {
            Some(limit) => Layer::frames(false, limit, behind),
            None => Layer::Behind(behind),
        };
        Ok(())
    }

    /// Whether messages are compressed, where that makes them smaller.
    pub fn compresses(&self) -> bool {
        matches!(self.layer, Layer::Frames(_))
    }

    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl Layer {
    fn frames(masked: bool, limit: usize, behind: Bytes) -> Self {
        let reader = Reader::new(masked, limit, behind);
        Self::Frames(Box::new(Frames { reader, writer: Writer::default() }))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Deflated<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, layer } = self.get_mut();
        match layer {
            Layer::None => Pin::new(inner).poll_read(cx, buf),
            Layer::Frames(frames) => frames.reader.poll_read(inner, cx, buf),
            Layer::Handshake(answer) => answer.poll_read(inner, cx, buf),
            Layer::Behind(behind) if behind.has_remaining() => {
                hand_on(behind, buf);
                Poll::Ready(Ok(()))
            }
            Layer::Behind(_) => {
                *layer = Layer::None;
                Pin::new(inner).poll_read(cx, buf)
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Deflated<S> {
    fn poll_packed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Frames(frames) => frames.writer.poll_packed(&mut self.inner, cx),
            Layer::None | Layer::Behind(_) | Layer::Handshake(_) => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Deflated<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { inner, layer } = self.get_mut();
        match layer {
            Layer::Frames(frames) => frames.writer.poll_write(inner, cx, buf),
            Layer::None | Layer::Behind(_) | Layer::Handshake(_) => Pin::new(inner).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_packed(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_packed(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.compresses() {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |buf| buf));
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        !self.compresses() && self.inner.is_write_vectored()
    }
}
