//! The stream side of a process on NATS: its instance, its streams, and the task that hands frames to them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{Client, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use protocol::StreamKind;
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
};

use super::{
    Sender, Signals, connection,
    connection::Events,
    peer::{self, Absent, Peer},
    waiting::Waiting,
};
use crate::{
    BusStream, ConnectError, OpenError, OpenHeader, Options, Service, Status,
    frame::{self, Frame, Refusal},
    ledger::Ledger,
    nats::Route as NatsRoute,
    stream::{Core, FIRST, Route, Wire},
    subjects,
};

/// How long an open waits for its answer, and a first open for the connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) struct Io {
    /// `<service>.<instance>`: fresh for every process, so nothing old can be meant for it.
    pub(super) address: Box<str>,
    client: OnceLock<Client>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) signals: Arc<Signals>,
    streams: Mutex<HashMap<u64, Arc<Core>>>,
    peers: Mutex<HashMap<Box<str>, Arc<Peer>>>,
    next_id: AtomicU64,
    /// Rises with each lost connection.
    epoch: AtomicU32,
    up: AtomicBool,
    waiting: Waiting,
    /// Listeners that have left their queue group and wait for the server to have noticed.
    leaving: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    /// There are peers to watch.
    pub(super) watch: Notify,
}

/// The stream side with its tasks, which end with it.
#[derive(Debug)]
pub(super) struct Running {
    io: Arc<Io>,
    _tasks: JoinSet<()>,
}

impl Running {
    pub(super) fn io(&self) -> &Arc<Io> {
        &self.io
    }

    pub(super) async fn close(&self) {
        self.io.reset_all("bus closed", true);
        self.io.up.store(false, Relaxed);
        self.io.signals.io.send_replace(None);
        if let Some(client) = self.io.client.get() {
            let _ = tokio::time::timeout(super::FLUSH_TIMEOUT, client.flush()).await;
            let _ = client.drain().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.io.reset_all("bus closed", true);
        self.io.up.store(false, Relaxed);
    }
}

pub(super) async fn start(
    options: &Options,
    service: Service,
    signals: Arc<Signals>,
    ledger: Arc<Ledger>,
) -> Result<Running, ConnectError> {
    let address = format!("{service}.{}", instance());
    let io = Arc::new(Io {
        address: address.clone().into_boxed_str(),
        client: OnceLock::new(),
        ledger,
        signals: Arc::clone(&signals),
        streams: Mutex::default(),
        peers: Mutex::default(),
        next_id: AtomicU64::new(1),
        epoch: AtomicU32::new(1),
        up: AtomicBool::new(false),
        waiting: Waiting::default(),
        leaving: Mutex::default(),
        watch: Notify::new(),
    });
    signals.io.send_replace(Some(Status::Disconnected { reason: "connecting".to_owned() }));
    let events: Arc<dyn Events> = Arc::clone(&io) as _;
    let client = connection::connect(options, service, connection::STREAMS, Arc::downgrade(&events), None).await?;
    let mut tasks = JoinSet::new();
    let subscriber = match client.subscribe(peer::subscription(&address)).await {
        Ok(subscriber) => subscriber,
        Err(error) => {
            // Only a client that has ended refuses; the opens that follow say so.
            tracing::error!(%error, "cannot subscribe to stream frames");
            return Ok(Running { io, _tasks: tasks });
        }
    };
    // Set once, here.
    let _ = io.client.set(client);
    tasks.spawn(Arc::clone(&io).demux(subscriber));
    tasks.spawn(Arc::clone(&io).pump());
    tasks.spawn(super::liveness::watch(Arc::clone(&io)));
    Ok(Running { io, _tasks: tasks })
}

/// 12 characters of 32: unique among all instances that ever share a bus.
fn instance() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    (0..12).filter_map(|_| ALPHABET.get(rand::random_range(0..32_usize))).map(|byte| char::from(*byte)).collect()
}

impl Io {
    pub(super) fn client(&self) -> Option<&Client> {
        self.client.get()
    }

    fn lock_streams(&self) -> MutexGuard<'_, HashMap<u64, Arc<Core>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_peers(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }

    /// Adds a stream to those that frames are handed to.
    pub(super) fn register(&self, core: &Arc<Core>) {
        self.lock_streams().insert(core.id, Arc::clone(core));
    }

    pub(crate) fn forget(&self, id: u64) {
        // Dropped outside the lock: the last reference gives its window back.
        let gone = self.lock_streams().remove(&id);
        drop(gone);
    }

    /// A stream's end on this connection.
    pub(super) fn stream(self: &Arc<Self>, core: Arc<Core>, client: &Client) -> BusStream {
        BusStream::new(core, Wire::Nats { io: Arc::clone(self), sender: Sender(client.clone()) })
    }

    /// Waits for the connection. False when it was closed for good.
    pub(super) async fn until_up(&self) -> bool {
        if self.is_up() {
            return true;
        }
        let mut io = self.signals.io.subscribe();
        let up = io.wait_for(|status| !matches!(status, Some(Status::Disconnected { .. }))).await;
        up.is_ok() && self.is_up()
    }

    /// Waits for the connection only when the other one works: then this one is about to.
    async fn wait_up(&self) -> Result<(), OpenError> {
        if self.is_up() {
            return Ok(());
        }
        if let Status::Disconnected { reason } = &*self.signals.rpc.borrow() {
            return Err(OpenError::Unavailable(reason.clone()));
        }
        let mut io = self.signals.io.subscribe();
        let up = io.wait_for(|status| matches!(status, Some(Status::Connected)));
        match tokio::time::timeout(OPEN_TIMEOUT, up).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(OpenError::Unavailable("bus connection for streams is not up".to_owned())),
        }
    }

    pub(super) async fn open(
        self: &Arc<Self>,
        kind: StreamKind,
        header: &OpenHeader,
        mut first: Bytes,
    ) -> Result<BusStream, OpenError> {
        self.wait_up().await?;
        let client = self.client().ok_or_else(|| OpenError::Unavailable("bus closed".to_owned()))?;
        let window = self.ledger.open(0).ok_or(OpenError::TooMany)?;
        let core = Arc::new(Core::new(self.next_id(), Arc::clone(&self.ledger), window, 0));
        // From here on dropping the stream undoes everything, also when this future is dropped.
        let mut stream = self.stream(Arc::clone(&core), client);
        let (sender, answer) = oneshot::channel();
        core.opening(sender);
        self.register(&core);

        let subject = subjects::stream_open(kind);
        let reply = peer::open_reply(&self.address, core.id);
        let json = serde_json::to_vec(header).map_err(|error| OpenError::Refused(error.to_string()))?;
        let rest = first.split_off(first.len().min(FIRST));
        let open = frame::open(core.id, self.epoch(), core.granted(), &self.address, &json, &first)
            .ok_or_else(|| OpenError::Refused("the stream's header is too long".to_owned()))?;
        let mut denied = self.signals.denied.subscribe();
        let answered = async {
            // The client would keep it while it is disconnected, and send it when nobody waits any more.
            if !self.is_up() {
                return Err(OpenError::Unavailable("bus connection lost".to_owned()));
            }
            if client.publish_with_reply(subject, reply, open).await.is_err() {
                return Err(OpenError::Unavailable("bus closed".to_owned()));
            }
            tokio::select! {
                answer = answer => answer.unwrap_or_else(|_| Err(OpenError::Lost("bus closed".to_owned()))),
                () = super::rpc::denial(&mut denied, subject) => Err(OpenError::Denied(subject.to_owned())),
            }
        };
        let answer = tokio::time::timeout(OPEN_TIMEOUT, answered).await;
        if let Err(error) = answer.unwrap_or(Err(OpenError::Timeout)) {
            self.ledger.refused.fetch_add(1, Relaxed);
            return Err(error);
        }
        self.ledger.opened.fetch_add(1, Relaxed);
        if !rest.is_empty() {
            use tokio::io::AsyncWriteExt as _;
            let failed = |error: std::io::Error| OpenError::Lost(error.to_string());
            stream.write_all(&rest).await.map_err(failed)?;
            stream.flush().await.map_err(failed)?;
        }
        Ok(stream)
    }

    /// Sends a frame from where nobody can wait.
    pub(crate) fn control(&self, peer: &Peer, payload: Bytes) {
        let Some(client) = self.client() else { return };
        let send = |(subject, payload)| super::try_publish(client, subject, payload);
        self.waiting.send((peer.subject.clone(), payload), || self.is_up(), send);
    }

    async fn pump(self: Arc<Self>) {
        if let Some(client) = self.client() {
            self.waiting.pump(client).await;
        }
    }

    fn lock_leaving(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes once the server has handled all that was sent to it before, and we have received all that it had sent
    /// until then: it answers for an instance that never is. An error when the connection was lost before.
    pub(super) async fn round_trip(&self, opener: Service) -> Option<oneshot::Receiver<()>> {
        let client = self.client()?;
        let id = self.next_id();
        let (sender, passed) = oneshot::channel();
        self.lock_leaving().insert(id, sender);
        let reply = peer::round_trip_reply(&self.address, id);
        // A connection lost since is noticed here or clears the entry.
        let sent = self.is_up() && client.publish_with_reply(peer::nobody(opener), reply, Bytes::new()).await.is_ok();
        if !sent {
            self.lock_leaving().remove(&id);
        }
        Some(passed)
    }

    async fn demux(self: Arc<Self>, mut subscriber: Subscriber) {
        while let Some(message) = subscriber.next().await {
            self.on_message(&message);
        }
    }

    fn on_message(&self, message: &Message) {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            match peer::absent(&self.address, &message.subject) {
                Some(Absent::Open(id)) => {
                    let core = self.lock_streams().get(&id).cloned();
                    if let Some(core) = core {
                        core.refused(OpenError::NoInstance);
                    }
                }
                Some(Absent::Nobody(id)) => {
                    let passed = self.lock_leaving().remove(&id);
                    if let Some(passed) = passed {
                        // The listener may be gone.
                        let _ = passed.send(());
                    }
                }
                Some(Absent::Peer(address)) => self.peer_gone(address, "the peer instance is gone"),
                None => {}
            }
            return;
        }
        match frame::decode(&message.payload) {
            Ok(frame) => self.on_frame(frame),
            Err(error) => {
                self.ledger.bad_frames.fetch_add(1, Relaxed);
                tracing::debug!(%error, "unreadable stream frame");
            }
        }
    }

    fn on_frame(&self, frame: Frame) {
        match frame {
            Frame::Data { id, sequence, credit, fin, bytes } => {
                // Unknown: it ended here, and the peer was told then.
                let Some(core) = self.find(id) else { return };
                if let Err(reason) = core.on_data(sequence, credit, fin, bytes) {
                    self.reset(&core, reason);
                } else if fin && core.is_finished() {
                    self.forget(id);
                }
            }
            Frame::Credit { id, credit } => {
                if let Some(core) = self.find(id) {
                    core.on_credit(credit);
                }
            }
            Frame::Reset { id, reason } => {
                if let Some(core) = self.find(id) {
                    core.fail(&reason);
                    self.forget(id);
                }
            }
            Frame::Accept { id, epoch, credit, from, address } => {
                let peer = self.peer(&address, epoch);
                if epoch < peer.epoch() {
                    // It has lost its connection since, and this stream with it.
                    if let Some(core) = self.find(id) {
                        core.refused(OpenError::Lost("the peer lost its bus connection".to_owned()));
                    }
                    return;
                }
                let route = NatsRoute { id: from, peer: Arc::clone(&peer) };
                let accepted = self.find(id).is_some_and(|core| core.accepted(Route::Nats(route), credit));
                if !accepted {
                    // Given up meanwhile.
                    self.control(&peer, frame::reset(from, "the opener gave up"));
                }
            }
            Frame::Refuse { id, why, reason } => {
                if let Some(core) = self.find(id) {
                    core.refused(match why {
                        Refusal::TooMany => OpenError::TooMany,
                        Refusal::Other => OpenError::Refused(reason),
                    });
                }
            }
            Frame::Ping { epoch, address } => {
                let peer = self.peer(&address, epoch);
                self.control(&peer, frame::pong(self.epoch(), &self.address));
            }
            Frame::Pong { epoch, address } => {
                self.peer(&address, epoch);
            }
            // Only to the queue group.
            Frame::Open { .. } => {
                self.ledger.bad_frames.fetch_add(1, Relaxed);
            }
        }
    }

    fn find(&self, id: u64) -> Option<Arc<Core>> {
        self.lock_streams().get(&id).cloned()
    }

    /// The instance at `address`, heard from just now. A new epoch means that its earlier streams are lost.
    pub(super) fn peer(&self, address: &str, epoch: u32) -> Arc<Peer> {
        let mut peers = self.lock_peers();
        if let Some(peer) = peers.get(address).cloned() {
            drop(peers);
            peer.heard();
            if epoch > peer.epoch() {
                self.reset_of(&peer, "the peer lost its bus connection");
                peer.set_epoch(epoch);
            }
            return peer;
        }
        let peer = Arc::new(Peer::new(address, epoch));
        peers.insert(address.into(), Arc::clone(&peer));
        drop(peers);
        self.watch.notify_one();
        peer
    }

    pub(super) fn peer_gone(&self, address: &str, reason: &str) {
        let peer = self.lock_peers().remove(address);
        if let Some(peer) = peer {
            self.reset_of(&peer, reason);
        }
    }

    /// Ends one stream and tells its peer.
    fn reset(&self, core: &Core, reason: &str) {
        if core.fail(reason)
            && let Some(Route::Nats(route)) = core.route()
        {
            self.control(&route.peer, frame::reset(route.id, reason));
        }
        self.forget(core.id);
    }

    /// Ends all streams with one instance. It is told: it may be only slow.
    fn reset_of(&self, peer: &Arc<Peer>, reason: &str) {
        let is_its = |core: &Core| matches!(core.route(), Some(Route::Nats(route)) if Arc::ptr_eq(&route.peer, peer));
        let all = self.lock_streams().values().cloned().collect::<Vec<_>>();
        for core in all.iter().filter(|core| is_its(core)) {
            self.reset(core, reason);
        }
    }

    fn reset_all(&self, reason: &str, tell: bool) {
        let all = std::mem::take(&mut *self.lock_streams());
        for core in all.into_values() {
            if tell {
                self.reset(&core, reason);
            } else {
                core.fail(reason);
            }
        }
    }
}

impl Events for Io {
    fn connected(&self) {
        self.up.store(true, Relaxed);
        self.signals.io.send_replace(Some(Status::Connected));
        self.signals.refresh();
        // Those we had streams with learn the new epoch, and end theirs.
        let peers = self.lock_peers().values().cloned().collect::<Vec<_>>();
        for peer in peers {
            self.control(&peer, frame::ping(self.epoch(), &self.address));
        }
    }

    fn disconnected(&self, reason: &str) {
        self.up.store(false, Relaxed);
        self.epoch.fetch_add(1, Relaxed);
        self.ledger.disconnects.fetch_add(1, Relaxed);
        self.waiting.clear();
        self.lock_leaving().clear();
        self.reset_all(reason, false);
        self.failing(reason);
    }

    fn failing(&self, reason: &str) {
        if !self.is_up() {
            self.signals.io.send_replace(Some(Status::Disconnected { reason: reason.to_owned() }));
            self.signals.refresh();
        }
    }

    fn denied(&self, subject: &str) {
        // Without subscribers nobody waits for it.
        let _ = self.signals.denied.send(subject.into());
    }

    /// Which stream lost something is not known, so each may have.
    fn slow(&self) {
        self.ledger.slow.fetch_add(1, Relaxed);
        tracing::error!("the bus client dropped stream frames");
        self.reset_all("the bus dropped messages", true);
    }
}
