//! The accepting side of streams on NATS.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use async_nats::{Message, Subscriber};
use futures::StreamExt as _;
use protocol::StreamKind;

use super::{Io, Route as NatsRoute};
use crate::{
    BusStream, OpenHeader,
    frame::{self, Frame, Refusal},
    stream::{Core, Route, cost},
};

#[derive(Debug)]
pub(crate) struct NatsListener {
    pub(super) io: Arc<Io>,
    pub(super) subscriber: Subscriber,
    pub(super) kind: StreamKind,
    /// An open that came out of the subscription while the connection was away: it can be answered when it is back.
    pub(super) held: Option<Message>,
}

impl NatsListener {
    /// The next stream, already accepted. None when the bus is closed or the listener was drained.
    pub(crate) async fn accept(&mut self) -> Option<(OpenHeader, BusStream)> {
        loop {
            if self.held.is_none() {
                self.held = Some(self.subscriber.next().await?);
            }
            if !self.io.until_up().await {
                return None;
            }
            if let Some(message) = self.held.take()
                && let Some(accepted) = self.take(&message)
            {
                return Some(accepted);
            }
        }
    }

    /// Takes no more from the queue group; what was given to this instance before still comes out of `accept`.
    pub(crate) async fn drain(&mut self) {
        // Fails only when the client has ended, and then there is nothing to drain.
        let _ = self.subscriber.drain().await;
    }

    fn take(&self, message: &Message) -> Option<(OpenHeader, BusStream)> {
        let io = &self.io;
        let Ok(Frame::Open { id, epoch, credit, address, header, first }) = frame::decode(&message.payload) else {
            io.ledger.bad_frames.fetch_add(1, Relaxed);
            return None;
        };
        let peer = io.peer(&address, epoch);
        let ours = io.epoch();
        if epoch < peer.epoch() {
            // Sent before its connection was lost, so its caller was told that it failed.
            return None;
        }
        let refuse = |why, reason: &str| {
            io.ledger.refused.fetch_add(1, Relaxed);
            io.control(&peer, frame::refuse(id, why, reason));
        };
        let header = match serde_json::from_slice::<OpenHeader>(&header) {
            Ok(header) => header,
            Err(error) => {
                tracing::warn!(kind = ?self.kind, %address, %error, "stream with an unreadable header");
                refuse(Refusal::Other, "unreadable stream header");
                return None;
            }
        };
        let used = if first.is_empty() { 0 } else { cost(first.len()) };
        let (Some(window), Some(client)) = (io.ledger.open(used), io.client()) else {
            refuse(Refusal::TooMany, "");
            return None;
        };
        let core = Arc::new(Core::new(io.next_id(), Arc::clone(&io.ledger), window, used));
        core.connected(Route::Nats(NatsRoute { id, peer: Arc::clone(&peer) }), credit, first);
        let stream = io.stream(Arc::clone(&core), client);
        io.register(&core);
        if io.epoch() != ours || !io.is_up() {
            // The connection was lost just now, and this stream was not yet among those that were reset.
            return None;
        }
        io.ledger.accepted.fetch_add(1, Relaxed);
        io.control(&peer, frame::accept(id, ours, core.granted(), core.id, &io.address));
        Some((header, stream))
    }
}
