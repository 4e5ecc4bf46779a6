use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use duplex::Duplex;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::Cut;
use super::frames::Frames;

/// A session's client, and how far what it was sent has come.
///
/// Each frame of a WebSocket is written by itself, and so begins a TLS record, as from the API server: some clients
/// (Kubernetes' for Python among them) take one frame whenever their socket is readable, and then wait for the next on
/// the socket alone, while it lies with their TLS library already.
#[derive(Debug)]
pub struct Client<T> {
    io: T,
    /// Of what it was sent. Absent where the protocol is no WebSocket, and has no words for the end of a session.
    frames: Option<Frames>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// It has ended its direction, so that it waits for no reason.
    Ending,
    /// The cluster's side has ended, without the close frame that ends a WebSocket.
    Unclosed,
    /// It is sent the rest of a frame, and nothing behind that.
    LastFrame,
}

/// Why a client was not told.
#[derive(Debug, thiserror::Error)]
pub enum Untold {
    #[error("its protocol has no words for it")]
    Protocol,
    #[error("it has a part of a frame, behind which nothing can follow")]
    Frame,
    #[error("it has gone: {0}")]
    Gone(#[from] io::Error),
}

impl<T: Duplex> Client<T> {
    pub fn new(io: T, websocket: bool) -> Self {
        Self { io, frames: websocket.then(Frames::default), state: State::Open }
    }

    /// The cluster's side has ended, and the client would wonder why.
    pub fn is_unclosed(&self) -> bool {
        self.state == State::Unclosed
    }

    /// From now on it takes the rest of the frame under way, and nothing behind that.
    pub fn take_last_frame(&mut self) {
        self.state = State::LastFrame;
    }

    /// Nothing of it is missing, as far as its protocol shows.
    pub fn has_whole_frames(&self) -> bool {
        self.frames.as_ref().is_none_or(|frames| frames.rest() == 0)
    }

    /// Tells it why the session ends, unless it was told already, and waits until it closes.
    pub async fn tell(mut self, cut: &Cut) -> Result<(), Untold> {
        let frames = self.frames.as_ref().ok_or(Untold::Protocol)?;
        if !self.has_whole_frames() {
            return Err(Untold::Frame);
        }
        if !frames.closed() {
            self.io.write_all(&cut.frame()).await?;
        }
        self.io.shutdown().await?;
        // Closed with something unread, TCP would take the frame back.
        while poll_fn(|cx| self.io.poll_chunk(cx)).await?.is_some() {}
        Ok(())
    }
}

impl<T: Duplex> Duplex for Client<T> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let chunk = self.io.poll_chunk(cx);
        if let Poll::Ready(Ok(None)) = chunk {
            self.state = State::Ending;
        }
        chunk
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.is_unclosed() {
            return Poll::Ready(io::ErrorKind::UnexpectedEof.into());
        }
        self.io.poll_reset(cx)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Client<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { io, frames, state } = &mut *self;
        if let Some(frames) = frames {
            if *state == State::LastFrame && frames.rest() == 0 {
                return Poll::Pending;
            }
            buf = buf.get(..frames.first(buf)).unwrap_or(buf);
        }
        let written = Pin::new(io).poll_write(cx, buf);
        if let (Poll::Ready(Ok(n)), Some(frames)) = (&written, frames) {
            frames.advance(buf.get(..*n).unwrap_or_default());
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// The cluster's side has ended. A WebSocket does not end with its connection, but with a close frame in it.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state != State::Ending && self.frames.as_ref().is_some_and(|frames| !frames.closed()) {
            self.state = State::Unclosed;
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
