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
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};

use crate::{
    config::OUT_LIMIT,
    frame::{ACK, DATA, FIN, GO_AWAY, HEADER, Header, PING, RST, SYN},
    state::{Shared, lock},
    stream::state::{CUT, DROPPED, FIN_IN, FIN_OUT, RST_IN, RST_OUT, SHUT, StreamState},
};

/// Unsent answers to pings, bytes, above which the peer is flooding.
const PONG_LIMIT: usize = 2 * OUT_LIMIT;

/// So many acknowledgements wait for no company: the peer opens at most 256 streams without.
const LAZY_BYTES: usize = 64 * HEADER;

#[derive(Debug, Default)]
pub(crate) struct Transport {
    /// What is left of the last binary message.
    input: Bytes,
    header: [u8; HEADER],
    /// Bytes of `header` that have arrived, and that yamux has been given of a complete one.
    arrived: usize,
    given: usize,
    /// Bytes of the current frame's body that yamux has yet to be given.
    body_in: usize,

    output: BytesMut,
    body_out: usize,
    /// There is more in `output` than acknowledgements of new streams.
    urgent: bool,
    /// yamux had a frame that did not fit.
    blocked: bool,

    streams: HashMap<u32, Arc<StreamState>>,
    shared: Arc<Shared>,
    /// The peer takes no new streams.
    pub(crate) going_away: bool,
    /// Code of the go-away with which yamux judged the peer.
    pub(crate) judged: Option<u32>,
    pub(crate) flooded: bool,
}

impl Transport {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, ..Self::default() }
    }

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
        let state = || Arc::new(StreamState::new(stream, self.shared.clone()));
        self.streams.entry(stream).or_insert_with(state).clone()
    }

    pub(crate) fn streams(&self) -> impl Iterator<Item = &Arc<StreamState>> {
        self.streams.values()
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
        if done && let Some(state) = self.streams.remove(&stream) {
            // What still came for it is gone as well, while its user may not have noticed that it was taken away.
            state.forget();
        }
        done
    }

    fn inject(&mut self, header: Header) {
        self.output.extend_from_slice(&header.encode());
        self.urgent = true;
    }

    /// The link ends, and every stream with it.
    pub(crate) fn cut(&self) {
        for state in self.streams.values() {
            state.set(CUT);
            if state.has(DROPPED) {
                state.forget();
            }
        }
    }

    /// A whole header has arrived; true when the frame is for yamux.
    fn inspect(&mut self, header: Header) -> bool {
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

    /// yamux has all of the frame, and does with it what it has to before it asks for more.
    fn end_frame(&mut self) {
        self.arrived = 0;
        self.given = 0;
        let header = Header::decode(self.header);
        if matches!(header.kind, PING | GO_AWAY) {
            return;
        }
        let Some(state) = self.streams.get(&header.stream) else { return };
        if header.has(RST) {
            state.set(RST_IN);
            return;
        }
        state.received(header.body());
        if header.has(FIN) {
            state.set(FIN_IN);
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
        let acknowledgement = header.kind == DATA && header.flags == ACK && header.length == 0;
        self.urgent |= !acknowledgement || self.output.len() >= LAZY_BYTES;
        if header.kind == GO_AWAY {
            self.judged = Some(header.length);
        }
        if matches!(header.kind, PING | GO_AWAY) {
            return;
        }
        let Some(state) = self.streams.get(&header.stream) else { return };
        state.sent(header.body());
        if header.has(RST) {
            state.set(RST_OUT);
        } else if header.has(FIN) {
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
