//! The accepting side of streams on NATS.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_nats::{Message, Subscriber};
use futures::{FutureExt as _, StreamExt as _};
use protocol::StreamKind;
use tokio::{sync::oneshot, task::unconstrained, time::timeout};

use super::{Io, Route as NatsRoute};
use crate::{
    BusStream, OpenHeader, Service,
    frame::{self, Frame, Refusal},
    stream::{Core, Route, cost},
    subjects::{Pattern, TABLE},
};

/// The server reads it as "at once", for it is no number that it knows, and the client as "never": it goes on taking
/// what the server had routed to us before. Its own way to unsubscribe forgets the subscription before the server does,
/// and drops what comes in between.
const AT_ONCE: u64 = u64::MAX;
/// How long the server may take to confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct NatsListener {
    io: Arc<Io>,
    subscriber: Subscriber,
    kind: StreamKind,
    /// An open that came out of the subscription while the connection was away: it can be answered when it is back.
    held: Option<Message>,
    membership: Membership,
}

/// Of the queue group.
#[derive(Debug)]
enum Membership {
    Member,
    /// Until the server confirms: it may still have routed opens to us.
    Leaving(oneshot::Receiver<()>),
    /// The connection was lost before that; to be asked again.
    Unconfirmed,
    /// Nothing new comes into the subscription.
    Left,
}

impl NatsListener {
    pub(super) fn new(io: Arc<Io>, subscriber: Subscriber, kind: StreamKind) -> Self {
        Self { io, subscriber, kind, held: None, membership: Membership::Member }
    }

    /// The next stream, already accepted. None when the bus is closed or the listener was drained.
    pub(crate) async fn accept(&mut self) -> Option<(OpenHeader, BusStream)> {
        loop {
            if self.held.is_none() {
                self.held = Some(self.next().await?);
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
        if !matches!(self.membership, Membership::Member) {
            return;
        }
        // Fails only when the client has ended, and then there is nothing to drain.
        let _ = self.subscriber.unsubscribe_after(AT_ONCE).await;
        self.confirm().await;
    }

    /// Asks the server whether it knows that we left.
    async fn confirm(&mut self) {
        self.membership = Membership::Unconfirmed;
        let row = TABLE.iter().find(|row| row.pattern == Pattern::Stream(self.kind));
        let opener = row.and_then(|row| row.publishers.first()).copied().unwrap_or(Service::GatewayLink);
        self.membership = match self.io.round_trip(opener).await {
            Some(confirmed) => Membership::Leaving(confirmed),
            None => Membership::Left,
        };
    }

    async fn next(&mut self) -> Option<Message> {
        loop {
            match &mut self.membership {
                Membership::Member => return self.subscriber.next().await,
                Membership::Leaving(confirmed) => {
                    let confirmed = tokio::select! {
                        biased;
                        open = self.subscriber.next() => return open,
                        confirmed = timeout(CONFIRM_TIMEOUT, confirmed) => confirmed,
                    };
                    self.membership = match confirmed {
                        Ok(Err(_)) => Membership::Unconfirmed,
                        Ok(Ok(())) | Err(_) => Membership::Left,
                    };
                }
                Membership::Unconfirmed => {
                    if !self.io.until_up().await {
                        return None;
                    }
                    self.confirm().await;
                }
                // What confirmed it came after every open that was routed to us, so those are here. Whether one is must
                // not depend on how much this task has done already.
                Membership::Left => return unconstrained(self.subscriber.next()).now_or_never().flatten(),
            }
        }
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
