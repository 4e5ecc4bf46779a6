//! What the peer says on the yamux session of a link.

use std::sync::{Arc, atomic::Ordering};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::{
    closed::Closed,
    config::{INITIAL_WINDOW, Role},
    frame::{ACK, DATA, FIN, GO_AWAY, HEADER, Header, PING, RST, SYN, WINDOW},
    state::{Shared, lock},
    stream::{
        MuxStream,
        state::{Overrun, StreamState},
    },
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
        if !self.shared.is_started() {
            return Err(Closed::Protocol("stream data before streams were negotiated".to_owned()));
        }
        while !message.is_empty() {
            if self.body.left > 0 {
                let part = message.split_to(message.len().min(self.body.left));
                self.body.receive(part);
                continue;
            }
            let rest = self.header.get_mut(self.arrived..).unwrap_or_default();
            let n = rest.len().min(message.len());
            message.copy_to_slice(rest.get_mut(..n).unwrap_or_default());
            self.arrived += n;
            if self.arrived == HEADER {
                self.arrived = 0;
                self.on_header(Header::decode(self.header))?;
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
                if !lock(&self.shared.output).pong(header.length) {
                    return Err(broken("more pings than answers fit"));
                }
                Ok(())
            }
            GO_AWAY if header.length == 0 => {
                lock(&self.shared.table).going_away = true;
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
            stream.expect(header.length).map_err(|overrun| match overrun {
                Overrun::Frame => Closed::TooBig(format!("yamux frame of {} bytes", header.length)),
                Overrun::Window => broken("more stream data than the window has room for"),
            })?;
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
        // The two ends may differ for a moment about how many are open, so this is no reason to end the link.
        let refused = !table.within(self.shared.max_streams);
        if refused || self.accepted.as_ref().is_none_or(mpsc::Sender::is_closed) {
            drop(table);
            self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            lock(&self.shared.output).signal(Header::data(RST, header.stream, 0));
            return Ok(None);
        }
        let stream = StreamState::accepted(header.stream, Arc::clone(&self.shared), credit);
        table.insert(Arc::clone(&stream));
        self.shared.counters.open_streams.store(table.len(), Ordering::Relaxed);
        drop(table);
        let user = MuxStream::new(Arc::clone(&stream));
        match self.accepted.as_ref().map(|accepted| accepted.try_send(user)) {
            Some(Err(mpsc::error::TrySendError::Full(_))) => Err(Closed::AcceptFlood),
            _ => {
                self.shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
                Ok(Some(stream))
            }
        }
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
    fn receive(&mut self, part: Bytes) {
        self.left -= part.len();
        if let Some(stream) = &self.stream {
            stream.receive(part);
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
