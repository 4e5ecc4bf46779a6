//! The in-memory pipe between the yamux connection and the WebSocket.
//!
//! It moves whole frames only: yamux never sees part of a header, and what it writes is cut into messages between
//! frames. So the driver may put a frame of its own between two of yamux's, and it does where yamux alone would leave
//! a peer waiting or deceived:
//!
//! - a ping is answered here. yamux stops reading until its pong is written; two ends with full sockets would then wait
//!   for each other for ever.
//! - yamux says FIN for a stream that is dropped after the peer's FIN, which turns an abort into a clean end: RST.
//! - yamux says nothing for a stream that is dropped after its own FIN, and the peer's writer waits for ever: RST.
//! - on reading, yamux does not tell FIN from RST. Both are noted here for [`MuxStream`](crate::MuxStream).
//! - yamux ends all streams on a go-away that only means "no new streams": it is noted and kept from yamux.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::{
    io::{AsyncRead, AsyncWrite},
    task::AtomicWaker,
};

use crate::{
    config::OUT_LIMIT,
    frame::{ACK, DATA, FIN, GO_AWAY, HEADER, Header, PING, RST, SYN},
    state::lock,
};

/// Unsent answers to pings, bytes, above which the peer is flooding.
const PONG_LIMIT: usize = 2 * OUT_LIMIT;

/// So many acknowledgements wait for no company: the peer opens at most 256 streams without.
const LAZY_BYTES: usize = 64 * HEADER;

/// The peer's FIN has been delivered to yamux with everything before it.
pub(crate) const FIN_IN: u8 = 1;
/// The peer reset the stream.
pub(crate) const RST_IN: u8 = 2;
/// Our FIN or RST is in the outgoing bytes.
pub(crate) const FIN_OUT: u8 = 4;
pub(crate) const RST_OUT: u8 = 8;
/// The user of the stream has finished writing, and has dropped it.
pub(crate) const SHUT: u8 = 16;
pub(crate) const DROPPED: u8 = 32;
/// The link has ended under it.
pub(crate) const CUT: u8 = 64;
/// The reader has seen the peer's end.
pub(crate) const READ_OUT: u8 = 128;

/// How far a stream has come to its end.
#[derive(Debug, Default)]
pub(crate) struct StreamState {
    flags: AtomicU8,
    /// Whoever waits for the peer to give the stream up. yamux wakes only those that read or write.
    abandoned: AtomicWaker,
}

impl StreamState {
    pub(crate) fn set(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        if flag & (RST_IN | CUT) != 0 {
            self.abandoned.wake();
        }
    }

    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags.load(Ordering::Acquire) & flags == flags
    }

    /// Resolves with [`RST_IN`], or with [`CUT`] unless both directions had ended before; but not while all that the
    /// peer had to say is here to be read: what came after it takes nothing away.
    pub(crate) fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()> {
        let abandoned = || {
            (self.has(RST_IN) || self.has(CUT) && !self.has(FIN_IN | SHUT)) && (!self.has(FIN_IN) || self.has(READ_OUT))
        };
        if abandoned() {
            return Poll::Ready(());
        }
        self.abandoned.register(cx.waker());
        // It may have come just before the waker was there.
        if abandoned() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn is_over(&self) -> bool {
        self.has(RST_IN) || self.has(DROPPED) || self.has(FIN_IN | FIN_OUT)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Transport {
    /// What is left of the last binary message.
    input: Bytes,
    header: [u8; HEADER],
    /// Bytes of `header` that have arrived, and that yamux has been given of a complete one.
    arrived: usize,
    given: usize,
    /// Bytes of the current frame's body that yamux has yet to be given, and what to note after the last.
    body_in: usize,
    ending: Option<(u32, u8)>,

    output: BytesMut,
    body_out: usize,
    /// There is more in `output` than acknowledgements of new streams.
    urgent: bool,
    /// yamux had a frame that did not fit.
    blocked: bool,

    streams: HashMap<u32, Arc<StreamState>>,
    /// The peer takes no new streams.
    pub(crate) going_away: bool,
    /// Code of the go-away with which yamux judged the peer.
    pub(crate) judged: Option<u32>,
    pub(crate) flooded: bool,
    pub(crate) frames_in: u64,
    pub(crate) frames_out: u64,
}

impl Transport {
    /// Takes the next message. The caller polls yamux right after, which consumes all of it unless it has to be polled
    /// again, or wants no more.
    pub(crate) fn push(&mut self, message: Bytes) {
        if self.input.is_empty() {
            self.input = message;
        } else {
            let mut joined = BytesMut::with_capacity(self.input.len() + message.len());
            joined.extend_from_slice(&self.input);
            joined.extend_from_slice(&message);
            self.input = joined.freeze();
        }
    }

    /// Everything gathered so far, as one message.
    pub(crate) fn take(&mut self) -> Bytes {
        self.urgent = false;
        self.output.split().freeze()
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// What there is waits for no company any more.
    pub(crate) fn hurry(&mut self) {
        self.urgent = self.has_output();
    }

    /// yamux has left something of the messages it was given.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// True once after yamux met a full output that has been taken since: poll it again.
    pub(crate) fn unblocked(&mut self) -> bool {
        self.blocked && self.output.len() < OUT_LIMIT && std::mem::take(&mut self.blocked)
    }

    pub(crate) fn open(&mut self, stream: u32) -> Arc<StreamState> {
        self.streams.entry(stream).or_default().clone()
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// One more stream of our own fits. Those that are dropped are as good as gone, as long as they are not as many.
    pub(crate) fn may_open(&self, max: usize) -> bool {
        let open = self.streams.len();
        open < max || open < 2 * max && self.count(|state| !state.has(DROPPED)) < max
    }

    /// The peer had room for the last stream it opened. Those that have ended on the wire it need not count any more,
    /// although our user may not have noticed yet.
    pub(crate) fn within(&self, max: usize) -> bool {
        let open = self.streams.len();
        open <= max || open <= 2 * max && self.count(|state| !state.is_over()) <= max
    }

    fn count(&self, counts: impl Fn(&StreamState) -> bool) -> usize {
        self.streams.values().filter(|state| counts(state)).count()
    }

    /// Sees a dropped stream out; true when nothing more has to be said about it.
    pub(crate) fn reap(&mut self, stream: u32) -> bool {
        let Some(state) = self.streams.get(&stream) else { return true };
        let done = if state.has(RST_IN) || state.has(RST_OUT) {
            true
        } else if state.has(FIN_OUT) {
            if !state.has(FIN_IN) {
                self.inject(Header::reset(stream));
            }
            true
        } else {
            false
        };
        if done {
            self.streams.remove(&stream);
        }
        done
    }

    fn inject(&mut self, header: Header) {
        self.output.extend_from_slice(&header.encode());
        self.frames_out += 1;
        self.urgent = true;
    }

    /// The link ends, and every stream with it.
    pub(crate) fn cut(&self) {
        for state in self.streams.values() {
            state.set(CUT);
        }
    }

    fn note(&mut self, stream: u32, flag: u8) {
        if let Some(state) = self.streams.get(&stream) {
            state.set(flag);
        }
    }

    /// A whole header has arrived; true when the frame is for yamux.
    fn inspect(&mut self, header: Header) -> bool {
        self.frames_in += 1;
        match header.kind {
            PING if !header.has(ACK) && header.version == 0 => {
                if self.output.len() > PONG_LIMIT {
                    self.flooded = true;
                } else {
                    self.inject(Header::pong(header.length));
                }
                return false;
            }
            GO_AWAY if header.length == 0 && header.version == 0 => {
                self.going_away = true;
                return false;
            }
            PING | GO_AWAY => {}
            _ => {
                if header.has(SYN) && !header.has(RST) {
                    self.open(header.stream);
                }
                if header.has(RST) {
                    self.ending = Some((header.stream, RST_IN));
                } else if header.has(FIN) {
                    self.ending = Some((header.stream, FIN_IN));
                }
            }
        }
        self.body_in = header.body();
        true
    }

    fn read(&mut self, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.given == 0 && self.arrived == HEADER && self.body_in > 0 {
                // In the body.
                let n = buf.len().min(self.body_in).min(self.input.len());
                if n == 0 {
                    return Poll::Pending;
                }
                self.input.copy_to_slice(buf.get_mut(..n).unwrap_or_default());
                self.body_in -= n;
                if self.body_in == 0 {
                    self.end_frame();
                }
                return Poll::Ready(Ok(n));
            }
            if self.arrived < HEADER {
                let rest = self.header.get_mut(self.arrived..).unwrap_or_default();
                let n = rest.len().min(self.input.len());
                if n == 0 {
                    return Poll::Pending;
                }
                self.input.copy_to_slice(rest.get_mut(..n).unwrap_or_default());
                self.arrived += n;
                if self.arrived < HEADER {
                    return Poll::Pending;
                }
                self.given = 0;
                if !self.inspect(Header::decode(self.header)) {
                    self.arrived = 0;
                    continue;
                }
            }
            let rest = self.header.get(self.given..).unwrap_or_default();
            let n = buf.len().min(rest.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
                to.copy_from_slice(from);
            }
            self.given += n;
            if self.given == HEADER {
                self.given = 0;
                if self.body_in == 0 {
                    self.end_frame();
                }
            }
            return Poll::Ready(Ok(n));
        }
    }

    fn end_frame(&mut self) {
        self.arrived = 0;
        self.given = 0;
        if let Some((stream, flag)) = self.ending.take() {
            self.note(stream, flag);
        }
    }

    fn write(&mut self, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.body_out > 0 {
            // The rest of a frame is always taken, so that between two polls `output` ends with a whole frame.
            let n = buf.len().min(self.body_out);
            self.output.extend_from_slice(buf.get(..n).unwrap_or_default());
            self.body_out -= n;
            return Poll::Ready(Ok(n));
        }
        if self.output.len() >= OUT_LIMIT {
            self.blocked = true;
            return Poll::Pending;
        }
        let Some(bytes) = buf.first_chunk::<HEADER>() else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidInput, "a yamux header written in parts")));
        };
        let mut header = Header::decode(*bytes);
        self.pass(&mut header);
        self.output.extend_from_slice(&header.encode());
        self.body_out = header.body();
        Poll::Ready(Ok(HEADER))
    }

    /// Looks at a header on its way out.
    fn pass(&mut self, header: &mut Header) {
        self.frames_out += 1;
        let acknowledgement = header.kind == DATA && header.flags == ACK && header.length == 0;
        self.urgent |= !acknowledgement || self.output.len() >= LAZY_BYTES;
        if header.kind == GO_AWAY {
            self.judged = Some(header.length);
        } else if header.kind != PING && header.has(RST) {
            self.note(header.stream, RST_OUT);
        } else if header.kind != PING
            && header.has(FIN)
            && let Some(state) = self.streams.get(&header.stream)
        {
            if state.has(DROPPED) && !state.has(SHUT) {
                header.flags = header.flags & !FIN | RST;
                state.set(RST_OUT);
            } else {
                state.set(FIN_OUT);
            }
        }
    }
}

/// yamux's end of the pipe. Needs no wakers: the driver polls yamux after each [`Transport::push`] and whenever
/// [`Transport::unblocked`] says so.
#[derive(Debug, Clone)]
pub(crate) struct Pipe(pub(crate) Arc<Mutex<Transport>>);

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).read(buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).write(buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
