//! Byte streams: what services read from and write to, on either bus.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use duplex::Duplex;
use protocol::TraceParent;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    frame,
    nats::{Io, Sender},
};

pub(crate) mod core;

pub(crate) use self::core::{Core, Permit, Route, cost};

/// Receive window of a new stream; also the most bytes that travel with an open.
pub(crate) const INITIAL_WINDOW: u32 = 64 * 1024;
/// Receive window of a new stream once half of the process's budget is used.
pub(crate) const SMALL_WINDOW: u32 = 8 * 1024;
/// What a message uses of the window beside its bytes.
pub(crate) const COST: u32 = 128;
/// A writer with more to say waits for at least this much credit.
pub(crate) const MIN_SEND: u32 = 2 * 1024 + COST;
/// A piece below this is copied when it has to wait.
pub(crate) const TINY: usize = 4 * 1024;
/// Most bytes in one message: two of them, with what NATS adds, fit the client's 32 KiB read buffers. Larger ones make the
/// client grow and copy its buffer for each message (measured, one stream: 16 KiB 1,000 MiB/s, 64 KiB 650, 128 KiB 600),
/// and let a small remainder pin a large buffer.
pub(crate) const CHUNK: usize = 16 * 1024 - 512;
/// Most first bytes that travel with the open itself.
pub(crate) const FIRST: usize = 32 * 1024;

/// What the opener says about the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenHeader {
    /// The request's or stream's id, for logs on both sides.
    pub id: String,
    /// What the stream is for, in the terms of its kind; none where the kind says it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The caller's span; none when the request is not traced.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "traceparent")]
    pub traceparent: Option<TraceParent>,
}

mod traceparent {
    use super::{Deserialize, Deserializer, Serializer, TraceParent};

    pub(super) fn serialize<S: Serializer>(value: &Option<TraceParent>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    /// A malformed one is ignored, as the specification asks.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TraceParent>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.and_then(|text| TraceParent::parse(&text).ok()))
    }
}

/// Why a stream could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No instance listens for this kind now.
    #[error("no instance of the service is running")]
    NoInstance,
    /// The bus cannot be used now; nothing was sent.
    #[error("bus unavailable: {0}")]
    Unavailable(String),
    /// The connection was lost while the instance was asked.
    #[error("the bus was lost while the stream was opened: {0}")]
    Lost(String),
    /// The instance did not take the stream.
    #[error("stream refused: {0}")]
    Refused(String),
    /// The instance did not answer in time.
    #[error("the instance did not answer in time")]
    Timeout,
    /// The stream budget, ours or the instance's, is used up.
    #[error("too many streams")]
    TooMany,
    /// The bus user may not open streams of this kind.
    #[error("the bus denies {0}")]
    Denied(String),
}

impl OpenError {
    /// Whether no instance can have got, or will still get, the first bytes.
    pub fn is_unsent(&self) -> bool {
        !matches!(self, Self::Lost(_) | Self::Timeout)
    }
}

/// What an `io::Error` of kind `ConnectionReset` from a [`BusStream`] carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamReset {
    pub reason: Arc<str>,
}

impl fmt::Display for StreamReset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream reset: {}", self.reason)
    }
}

impl std::error::Error for StreamReset {}

fn reset_error(reason: Arc<str>) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, StreamReset { reason })
}

/// How the bytes leave.
#[derive(Debug)]
pub(crate) enum Wire {
    Nats { io: Arc<Io>, sender: Sender },
    Local { node: Arc<crate::local::Node> },
}

impl Wire {
    /// Bytes to leave free in front of a chunk.
    const fn room(&self) -> usize {
        match self {
            Self::Nats { .. } => frame::HEADER,
            Self::Local { .. } => 0,
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Nats { sender, .. } => sender.poll_ready(cx),
            Self::Local { .. } => Poll::Ready(()),
        }
    }
}

/// A duplex byte stream to another instance. Writes gather until flushed or a chunk is full; each direction ends by
/// itself (`shutdown`); dropping it before both have ended resets it for the peer. After a reset reads and writes fail
/// with `ConnectionReset` carrying [`StreamReset`], except that what the peer had sent up to its end stays readable.
pub struct BusStream {
    core: Arc<Core>,
    wire: Wire,
    /// What is written and not yet sent, with [`Wire::room`] free bytes in front once there is any.
    tx: BytesMut,
    /// How large the last chunk was: the next is likely to be as large.
    hint: usize,
    /// What is left of the chunk being read by `AsyncRead`.
    chunk: Bytes,
}

impl BusStream {
    pub(crate) fn new(core: Arc<Core>, wire: Wire) -> Self {
        Self { core, wire, tx: BytesMut::new(), hint: 0, chunk: Bytes::new() }
    }

    /// [`poll_chunk`](Duplex::poll_chunk) as a future; nothing is lost when it is dropped.
    ///
    /// # Errors
    /// `ConnectionReset` with [`StreamReset`].
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// Ends both directions at once and tells the peer why.
    pub fn reset(self, reason: &str) {
        self.abort(reason);
    }

    /// The opener's or acceptor's number of this stream in this process, for logs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.core.id
    }

    fn pending(&self) -> usize {
        self.tx.len().saturating_sub(self.wire.room())
    }

    /// Room in the chunk, once a full one has been sent.
    fn poll_space(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.core.is_dead() {
            return Poll::Ready(Err(self.dead()));
        }
        if self.pending() >= CHUNK {
            ready!(self.poll_publish(cx, false))?;
        }
        Poll::Ready(Ok(CHUNK.saturating_sub(self.pending())))
    }

    /// Capacity for `bytes` more.
    fn reserve(&mut self, bytes: usize) {
        let room = self.wire.room();
        if self.tx.is_empty() {
            if self.tx.capacity() < room + bytes {
                self.tx = BytesMut::with_capacity(room + bytes.max(self.hint));
            }
            self.tx.put_bytes(0, room);
        } else {
            self.tx.reserve(bytes);
        }
    }

    fn dead(&self) -> io::Error {
        reset_error(self.core.reset_reason().unwrap_or_else(|| Arc::from("closed")))
    }

    /// Sends if that can be done now; if not, the caller is woken when it can.
    fn start_publish(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.poll_publish(cx, false) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Hands everything written to the bus, and the end of the stream with it when `fin`.
    fn poll_publish(&mut self, cx: &mut Context<'_>, fin: bool) -> Poll<io::Result<()>> {
        loop {
            let wanted = self.pending();
            if wanted == 0 && (!fin || self.core.fin_sent()) {
                return Poll::Ready(Ok(()));
            }
            let wire = &mut self.wire;
            let permit = match ready!(self.core.poll_send(cx, wanted, fin, |cx| wire.poll_ready(cx))) {
                Ok(permit) => permit,
                Err(reason) => return Poll::Ready(Err(reset_error(reason))),
            };
            let last = fin && permit.take == wanted;
            let bytes = self.take(permit.take, wanted);
            self.hint = permit.take;
            self.send(permit, last, bytes)?;
            if last && self.core.is_finished() {
                self.forget();
            }
        }
    }

    /// The first `take` of the `wanted` written bytes, with the room in front.
    fn take(&mut self, take: usize, wanted: usize) -> BytesMut {
        let room = self.wire.room();
        let mut out = std::mem::take(&mut self.tx);
        if take < wanted {
            let rest = out.get(room + take..).unwrap_or_default();
            self.tx.reserve(room + rest.len());
            self.tx.put_bytes(0, room);
            self.tx.extend_from_slice(rest);
            out.truncate(room + take);
        }
        out
    }

    fn send(&mut self, permit: Permit, fin: bool, mut out: BytesMut) -> io::Result<()> {
        let Permit { sequence, credit, route, .. } = permit;
        match (route, &mut self.wire) {
            (Route::Nats(route), Wire::Nats { sender, .. }) => {
                let header = frame::data_header(route.id, sequence, credit, fin);
                match out.get_mut(..frame::HEADER) {
                    Some(room) => room.copy_from_slice(&header),
                    None => out = BytesMut::from(header.as_slice()),
                }
                sender.send(route.peer.subject.clone(), out.freeze()).map_err(|closed| {
                    self.core.fail(closed);
                    reset_error(Arc::from(closed))
                })
            }
            (Route::Local(peer), _) => {
                if let Err(reason) = peer.on_data(sequence, credit, fin, out.freeze()) {
                    peer.fail(reason);
                    self.core.fail(reason);
                }
                Ok(())
            }
            (Route::Nats(_), Wire::Local { .. }) => Ok(()),
        }
    }

    fn return_credit(&self, credit: u32) {
        match (self.core.route(), &self.wire) {
            (Some(Route::Nats(route)), Wire::Nats { io, .. }) => {
                io.control(&route.peer, frame::credit(route.id, credit));
            }
            (Some(Route::Local(peer)), _) => peer.on_credit(credit),
            _ => {}
        }
    }

    /// Nothing will come for this stream any more.
    fn forget(&self) {
        match &self.wire {
            Wire::Nats { io, .. } => io.forget(self.core.id),
            Wire::Local { node } => node.forget(self.core.id),
        }
    }

    fn abort(&self, reason: &str) {
        if self.core.is_finished() {
            return;
        }
        self.core.fail(reason);
        match (self.core.route(), &self.wire) {
            (Some(Route::Nats(route)), Wire::Nats { io, .. }) => {
                io.control(&route.peer, frame::reset(route.id, reason));
            }
            (Some(Route::Local(peer)), _) => {
                peer.fail(reason);
            }
            // The open was not answered yet: the answer will find nobody, and is then refused.
            _ => {}
        }
    }
}

impl Duplex for BusStream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.chunk.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.chunk))));
        }
        match ready!(self.core.poll_chunk(cx)) {
            Ok(Some((bytes, credit))) => {
                if credit > 0 {
                    self.return_credit(credit);
                }
                Poll::Ready(Ok(Some(bytes)))
            }
            Ok(None) => Poll::Ready(Ok(None)),
            Err(reason) => Poll::Ready(Err(reset_error(reason))),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.core.poll_reset(cx).map(reset_error)
    }
}

impl AsyncRead for BusStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(mut chunk) = ready!(self.poll_chunk(cx))? else { return Poll::Ready(Ok(())) };
        let read = chunk.split_to(chunk.len().min(buf.remaining()));
        buf.put_slice(&read);
        self.chunk = chunk;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BusStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.core.fin_sent() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let space = ready!(self.poll_space(cx))?;
        let mut left = total.min(space);
        self.reserve(left);
        for buf in bufs {
            let part = buf.get(..left).unwrap_or(buf);
            self.tx.extend_from_slice(part);
            left -= part.len();
        }
        if self.pending() >= CHUNK {
            self.start_publish(cx)?;
        }
        Poll::Ready(Ok(total.min(space)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_publish(cx, false)
    }

    /// Ends our direction; the peer's goes on.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_publish(cx, true)
    }
}

impl fmt::Debug for BusStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusStream").field("id", &self.core.id).finish_non_exhaustive()
    }
}

impl Drop for BusStream {
    fn drop(&mut self) {
        self.abort("dropped by the peer");
        self.core.discard_unread();
        self.forget();
        self.core.take_route();
    }
}
