//! The bus over NATS core.
//!
//! ```text
//!  Bus ── NatsBus ──┬── rpc client    requests and answers
//!                   └── Io            streams, on a connection of their own (made at the first open or listen),
//!                        ├── demux      one task: frames to the streams they belong to; never waits
//!                        ├── pump       sends what could not be sent at once from where nobody can wait
//!                        └── liveness   pings the instances that streams are open with
//! ```

mod connection;
mod io;
mod listener;
mod liveness;
mod peer;
mod rpc;
mod waiting;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_nats::{Client, Subject, message::OutboundMessage};
use bytes::Bytes;
use futures::{FutureExt as _, Sink};
use tokio::sync::{OnceCell, broadcast, watch};

pub(crate) use self::{
    io::Io,
    listener::NatsListener,
    peer::Route,
    rpc::{NatsIntake, NatsReply},
};
use crate::{ConnectError, Options, Service, Stats, Status, ledger::Ledger};

/// How long closing waits for what was written to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A client clone that can be polled: one per stream.
#[derive(Debug)]
pub(crate) struct Sender(Client);

impl Sender {
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A closed client is ready: the send that follows says so.
        std::pin::Pin::new(&mut self.0).poll_ready(cx).map(|_| ())
    }

    pub(crate) fn send(&mut self, subject: Subject, payload: Bytes) -> Result<(), &'static str> {
        let message = OutboundMessage { subject, reply: None, payload, headers: None };
        std::pin::Pin::new(&mut self.0).start_send(message).map_err(|_| "the bus client is closed")
    }
}

/// Publishes if the client takes it at once.
fn try_publish(client: &Client, subject: Subject, payload: Bytes) -> bool {
    // Without the task's budget: once that is spent, every send waits, room or not.
    tokio::task::unconstrained(client.publish(subject, payload)).now_or_never().is_some()
}

/// What both connections tell the rest.
#[derive(Debug)]
pub(crate) struct Signals {
    status: watch::Sender<Status>,
    rpc: watch::Sender<Status>,
    io: watch::Sender<Option<Status>>,
    /// Subjects that the server refused a publish to.
    denied: broadcast::Sender<Arc<str>>,
}

impl Signals {
    fn new() -> Self {
        let connecting = Status::Disconnected { reason: "connecting".to_owned() };
        Self {
            status: watch::Sender::new(connecting.clone()),
            rpc: watch::Sender::new(connecting),
            io: watch::Sender::new(None),
            denied: broadcast::Sender::new(64),
        }
    }

    /// The bus works when every connection in use does.
    fn refresh(&self) {
        self.status.send_if_modified(|status| {
            // Read in here, so that the last of two connections that change together sees both.
            let io = self.io.borrow().clone();
            let now = match (self.rpc.borrow().clone(), io) {
                (Status::Connected, Some(Status::Connected) | None) => Status::Connected,
                (Status::Connected, Some(down)) => down,
                (down, _) => down,
            };
            let changed = *status != now;
            *status = now;
            changed
        });
    }
}

#[derive(Debug)]
pub(crate) struct NatsBus {
    service: Service,
    options: Options,
    ledger: Arc<Ledger>,
    signals: Arc<Signals>,
    rpc: Client,
    io: OnceCell<io::Running>,
    closed: AtomicBool,
}

impl NatsBus {
    pub(crate) async fn connect(options: &Options, service: Service) -> Result<Self, ConnectError> {
        let signals = Arc::new(Signals::new());
        let ledger = Arc::new(Ledger::new(options.buffer_total, options.stream_window));
        let events = Arc::new(rpc::RpcEvents { signals: Arc::clone(&signals), ledger: Arc::clone(&ledger) });
        let rpc =
            connection::connect(options, service, connection::RPC, Arc::downgrade(&events) as _, Some(events)).await?;
        let options = options.clone();
        Ok(Self { service, options, ledger, signals, rpc, io: OnceCell::new(), closed: AtomicBool::new(false) })
    }

    /// The stream side, connecting it at its first use.
    async fn io(&self) -> Result<&Arc<Io>, ConnectError> {
        let running = self
            .io
            .get_or_try_init(|| {
                io::start(&self.options, self.service, Arc::clone(&self.signals), Arc::clone(&self.ledger))
            })
            .await?;
        Ok(running.io())
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.signals.status.subscribe()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.ledger.stats()
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    pub(crate) async fn close(&self) {
        self.closed.store(true, Relaxed);
        if let Some(running) = self.io.get() {
            running.close().await;
        }
        // What cannot leave within the time never will.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.rpc.flush()).await;
        let _ = self.rpc.drain().await;
    }
}
