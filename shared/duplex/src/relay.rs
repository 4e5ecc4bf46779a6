use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::Duplex;

/// Bytes carried each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    pub from_left: u64,
    pub from_right: u64,
}

/// Which side of a relay broke.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("left side: {0}")]
    Left(io::Error),
    #[error("right side: {0}")]
    Right(io::Error),
}

/// Chunks carried before other tasks get their turn.
const TURN: usize = 32;

/// Carries bytes both ways until both sides have ended; the end of one direction is passed on as a half-close. Needs
/// no buffer of its own: an idle relay costs only its state. `report` is told the bytes since its last call.
///
/// Dropping the future, or an error on either side, drops both streams and thereby gives both peers up.
///
/// # Errors
/// The side that broke first, even while it is not being read because the other side takes nothing. Of a side that
/// takes no more, what has arrived already is carried on before.
pub fn relay<L: Duplex, R: Duplex>(
    left: L,
    right: R,
    report: impl Fn(Relayed),
) -> impl Future<Output = Result<(), Broken>> {
    let mut relay = Relay::new(left, right);
    std::future::poll_fn(move |cx| relay.poll(cx, &report))
}

/// A [`relay`] whose sides are at hand when it ends, or is given up half-way.
#[derive(Debug)]
pub struct Relay<L, R> {
    pub left: L,
    pub right: R,
    to_right: Direction,
    to_left: Direction,
}

impl<L: Duplex, R: Duplex> Relay<L, R> {
    pub fn new(left: L, right: R) -> Self {
        Self { left, right, to_right: Direction::default(), to_left: Direction::default() }
    }

    /// As awaiting [`relay`], and with its errors.
    pub fn poll(&mut self, cx: &mut Context<'_>, report: &impl Fn(Relayed)) -> Poll<Result<(), Broken>> {
        let Self { left, right, to_right, to_left } = self;
        let right_done = to_right.poll(cx, left, right);
        let left_done = to_left.poll(cx, right, left);
        let carried =
            Relayed { from_left: std::mem::take(&mut to_right.bytes), from_right: std::mem::take(&mut to_left.bytes) };
        if carried != Relayed::default() {
            report(carried);
        }
        let right_done = right_done.map_err(Broken::Left)?.is_ready();
        let left_done = left_done.map_err(Broken::Right)?.is_ready();
        if let Some(error) = to_right.refused.take_if(|_| left_done || to_left.reads) {
            return Poll::Ready(Err(Broken::Right(error)));
        }
        if let Some(error) = to_left.refused.take_if(|_| right_done || to_right.reads) {
            return Poll::Ready(Err(Broken::Left(error)));
        }
        if right_done && left_done {
            return Poll::Ready(Ok(()));
        }
        if to_right.is_blind()
            && let Poll::Ready(error) = left.poll_reset(cx)
        {
            return Poll::Ready(Err(Broken::Left(error)));
        }
        if to_left.is_blind()
            && let Poll::Ready(error) = right.poll_reset(cx)
        {
            return Poll::Ready(Err(Broken::Right(error)));
        }
        Poll::Pending
    }

    /// Carries on what the right side sends, and nothing to it. Ready once it has ended, or the left side takes no more.
    ///
    /// # Errors
    /// When the right side breaks.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.to_left.poll(cx, &mut self.right, &mut self.left)
    }
}

#[derive(Debug, Default)]
struct Direction {
    chunk: Bytes,
    state: State,
    unflushed: bool,
    /// The last poll ended in waiting for the source, which would then tell of its own end.
    reads: bool,
    /// Why the other side takes no more.
    refused: Option<io::Error>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Copying,
    Closing,
    Closed,
}

impl Direction {
    /// Nobody would notice that the source gives up.
    fn is_blind(&self) -> bool {
        !self.reads && self.state != State::Closing
    }

    /// Fails when the source does.
    fn poll<F: Duplex, T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
    ) -> Poll<io::Result<()>> {
        self.reads = false;
        for _ in 0..TURN {
            if self.state == State::Closed {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = ready!(self.poll_write(cx, to)) {
                self.refused = Some(error);
                self.chunk = Bytes::new();
                self.state = State::Closed;
                return Poll::Ready(Ok(()));
            }
            if self.state == State::Copying {
                match from.poll_chunk(cx)? {
                    Poll::Ready(Some(chunk)) => self.chunk = chunk,
                    Poll::Ready(None) => self.state = State::Closing,
                    Poll::Pending => {
                        self.reads = true;
                        // An error shows with the next write.
                        if self.unflushed && Pin::new(&mut *to).poll_flush(cx).is_ready() {
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands on what was read, and then the source's end.
    fn poll_write<T: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut T) -> Poll<io::Result<()>> {
        while !self.chunk.is_empty() {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.chunk))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if n < self.chunk.len() {
                self.chunk.advance(n);
            } else {
                // An empty rest would keep the buffer that the chunk lies in.
                self.chunk = Bytes::new();
            }
            self.bytes += n as u64;
            self.unflushed = true;
        }
        if self.state == State::Closing {
            ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
            self.state = State::Closed;
        }
        Poll::Ready(Ok(()))
    }
}
