//! What the peer says on the yamux session of a link.

use std::sync::{Arc, atomic::Ordering};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::{
    closed::Closed,
    config::{INITIAL_WINDOW, Role},
    frame::{ACK, DATA, FIN, GO_AWAY, HEADER, Header, PING, RST, SYN, WINDOW},
    state::{Shared, lock},
    stream::{MuxStream, state::StreamState},
};

pub(crate) struct Session {
    shared: Arc<Shared>,
    /// Until the link ends.
    accepted: Option<mpsc::Sender<MuxStream>>,
    /// The first bytes of a frame, as far as they have arrived.
    header: [u8; HEADER],
    arrived: usize,
    body: Body,
}

/// Smaller parts of a message are copied.
const SLICE: usize = 8 * 1024;

/// What is still to come of a data frame.
#[derive(Default)]
struct Body {
    left: usize,
    /// None: nobody wants it.
    stream: Option<Arc<StreamState>>,
    last: bool,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, accepted: mpsc::Sender<MuxStream>) -> Self {
        shared.unread.join(&shared);
        Self { shared, accepted: Some(accepted), header: [0; HEADER], arrived: 0, body: Body::default() }
    }

    /// A binary message: any part of the peer's frames.
    pub(crate) fn receive(&mut self, mut message: Bytes) -> Result<(), Closed> {
        let whole = message.len();
        while !message.is_empty() {
            if self.body.left > 0 {
                let part = message.split_to(message.len().min(self.body.left));
                self.body.receive(part, whole);
                continue;
            }
            let rest = self.header.get_mut(self.arrived..).unwrap_or_default();
            let n = rest.len().min(message.len());
            message.copy_to_slice(rest.get_mut(..n).unwrap_or_default());
            self.arrived += n;
            if self.arrived == HEADER {
                self.arrived = 0;
                self.on_header(Header::decode(self.header))?;
                // After each: one message can ask for very much.
                if lock(&self.shared.output).is_flooded(self.shared.max_streams) {
                    return Err(broken("more is asked of this end than the peer takes answers"));
                }
            }
        }
        self.shared.unread.relieve();
        Ok(())
    }

    fn on_header(&mut self, header: Header) -> Result<(), Closed> {
        if header.version != 0 {
            return Err(broken("a frame of an unknown version"));
        }
        match header.kind {
            DATA | WINDOW => self.on_stream(header),
            PING if header.has(ACK) => Err(broken("an answer to a ping that was not sent")),
            PING => {
                lock(&self.shared.output).signal(Header::pong(header.length));
                Ok(())
            }
            GO_AWAY if header.length == 0 => {
                lock(&self.shared.table).going_away = true;
                self.shared.backlog.close();
                Ok(())
            }
            GO_AWAY => Err(broken("the peer ended its yamux session with an error")),
            _ => Err(broken("a frame of an unknown type")),
        }
    }

    fn on_stream(&mut self, header: Header) -> Result<(), Closed> {
        let stream = if header.has(SYN) && !header.has(RST) {
            self.accept(header)?
        } else {
            lock(&self.shared.table).get(header.stream).cloned()
        };
        if let Some(stream) = &stream {
            if header.has(RST) {
                stream.reset();
            } else if header.has(ACK) {
                stream.acknowledged();
            }
        }
        if header.kind == WINDOW {
            return match stream {
                Some(stream) => credit(&stream, header),
                // It has ended here, and the peer was told.
                None => Ok(()),
            };
        }
        if let Some(stream) = &stream {
            stream.expect(header.length).map_err(broken)?;
        }
        let left = usize::try_from(header.length).unwrap_or(usize::MAX);
        self.body = Body { left, stream, last: header.has(FIN) };
        if left == 0 {
            self.body.end();
        }
        Ok(())
    }

    /// None: it does not fit, and the peer is told.
    fn accept(&mut self, header: Header) -> Result<Option<Arc<StreamState>>, Closed> {
        let is_odd = header.stream % 2 == 1;
        if header.stream == 0 || is_odd == (self.shared.role == Role::Agent) {
            return Err(broken("a stream with an id of this end"));
        }
        let credit = if header.kind == WINDOW { header.length } else { 0 };
        let credit = INITIAL_WINDOW.checked_add(credit).ok_or_else(|| broken("more credit than there can be"))?;
        let mut table = lock(&self.shared.table);
        if table.get(header.stream).is_some() {
            return Err(broken("a stream with an id that is in use"));
        }
        // The two ends may differ for a moment about how many are open, so this is no reason to end the link. Those that have
        // ended on the wire the peer need not count any more, although our user may not have noticed yet.
        let fits = table.len()
            < self.shared.max_streams + self.shared.over.load(Ordering::Relaxed).min(self.shared.max_streams);
        let Some(place) = self.accepted.as_ref().filter(|_| fits).and_then(|accepted| accepted.try_reserve().ok())
        else {
            drop(table);
            self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            lock(&self.shared.output).signal(Header::data(RST, header.stream, 0));
            return Ok(None);
        };
        let stream = StreamState::accepted(header.stream, Arc::clone(&self.shared), credit);
        table.insert(Arc::clone(&stream));
        self.shared.counters.open_streams.store(table.len(), Ordering::Relaxed);
        drop(table);
        place.send(MuxStream::new(Arc::clone(&stream)));
        self.shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(Some(stream))
    }

    /// Ends every stream; what they have received stays readable.
    pub(crate) fn end(&mut self) {
        self.accepted = None;
        self.body = Body::default();
        self.shared.end_streams();
    }
}

fn credit(stream: &StreamState, header: Header) -> Result<(), Closed> {
    // That of the first frame is in the new stream already.
    if !header.has(SYN) && !stream.allow(header.length) {
        return Err(broken("more credit than there can be"));
    }
    if header.has(FIN) {
        stream.finish();
    }
    Ok(())
}

fn broken(rule: &str) -> Closed {
    Closed::Protocol(rule.to_owned())
}

impl Body {
    /// A part of a message of `whole` bytes.
    fn receive(&mut self, part: Bytes, whole: usize) {
        self.left -= part.len();
        if let Some(stream) = &self.stream {
            // A slice keeps all of the message, and who reads it may keep it for long.
            let keeps_little = part.len() >= SLICE && 4 * part.len() >= whole;
            stream.receive(if keeps_little { part } else { Bytes::copy_from_slice(&part) });
        }
        if self.left == 0 {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(stream) = self.stream.take()
            && self.last
        {
            stream.finish();
        }
    }
}

#[cfg(test)]
mod tests;
