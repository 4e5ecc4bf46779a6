use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bus::BusStream;
use bytes::{Buf, Bytes};
use mux::MuxStream;
use tokio::io::AsyncWrite;

/// A stream that gives its bytes in the pieces in which they came, without copying them.
trait Chunks {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;
}

impl Chunks for MuxStream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        Self::poll_chunk(self, cx)
    }
}

impl Chunks for BusStream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        Self::poll_chunk(self, cx)
    }
}

/// Bytes carried from the link to the bus, and back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pumped {
    pub up: u64,
    pub down: u64,
}

/// Which side a stream broke on.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The control plane has given the stream up: the client went away, or has all it wants. Or the link is lost.
    #[error("given up by the control plane: {0}")]
    Link(#[source] io::Error),
    #[error("broken on the bus: {0}")]
    Bus(#[source] io::Error),
}

/// Copies both ways until both directions have ended. Needs no buffer of its own: an idle stream costs only its state.
/// Dropping the future, or an error on either side, drops both streams and thereby resets both peers.
pub async fn pump(mut link: MuxStream, mut bus: BusStream, report: impl Fn(Pumped)) -> Result<(), Broken> {
    let mut up = Direction::new(Broken::Link, Broken::Bus);
    let mut down = Direction::new(Broken::Bus, Broken::Link);
    let mut pumping = pin!(std::future::poll_fn(|cx| {
        let up_done = up.poll(cx, &mut link, &mut bus)?.is_ready();
        let down_done = down.poll(cx, &mut bus, &mut link)?.is_ready();
        report(Pumped { up: std::mem::take(&mut up.bytes), down: std::mem::take(&mut down.bytes) });
        if up_done && down_done { Poll::Ready(Ok(())) } else { Poll::Pending }
    }));
    pumping.as_mut().await
}

#[derive(Debug)]
struct Direction {
    /// What an error of reading, and one of writing, means.
    read: fn(io::Error) -> Broken,
    write: fn(io::Error) -> Broken,
    chunk: Bytes,
    state: State,
    unflushed: bool,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Copying,
    Closing,
    Closed,
}

/// Chunks copied before other tasks get their turn.
const TURN: usize = 32;

impl Direction {
    fn new(read: fn(io::Error) -> Broken, write: fn(io::Error) -> Broken) -> Self {
        Self { read, write, chunk: Bytes::new(), state: State::Copying, unflushed: false, bytes: 0 }
    }

    fn poll<F: Chunks, T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..TURN {
            while !self.chunk.is_empty() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.chunk)).map_err(self.write)?;
                self.chunk.advance(n);
                self.bytes += n as u64;
                self.unflushed = true;
            }
            match self.state {
                State::Copying => match from.poll_chunk(cx).map_err(self.read)? {
                    Poll::Ready(Some(chunk)) => self.chunk = chunk,
                    Poll::Ready(None) => self.state = State::Closing,
                    Poll::Pending => {
                        if self.unflushed && Pin::new(&mut *to).poll_flush(cx).map_err(self.write)?.is_ready() {
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
                State::Closing => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(self.write)?;
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
