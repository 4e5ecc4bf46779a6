//! The bus inside one process: the same streams and requests, handed over directly.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use protocol::StreamKind;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Bus, BusStream, OpenError, OpenHeader, Options, Request, RequestError, ServeError, Service, Status,
    ledger::Ledger,
    request::{self, MAX_CONCURRENT},
    stream::{Core, Route, Wire, cost},
    subjects::{self, Permissions},
};

/// Streams that may wait for one listener's `accept`.
const BACKLOG: usize = 1024;
const GONE: &str = "the peer instance is gone";

pub(crate) type LocalReply = oneshot::Sender<Bytes>;
pub(crate) type LocalIntake = mpsc::Receiver<(Bytes, LocalReply)>;
pub(crate) type LocalListener = mpsc::Receiver<(OpenHeader, BusStream)>;

/// An in-process bus. [`bus`](Self::bus) gives each service its end; replicas are several ends of one service.
#[derive(Clone, Debug)]
pub struct LocalBus {
    hub: Arc<Hub>,
    options: Options,
}

impl LocalBus {
    /// A bus with the rights of [`subjects::TABLE`].
    #[must_use]
    pub fn new() -> Self {
        Self::with(&Options::default(), subjects::permissions)
    }

    /// A bus with other stream windows and other rights.
    #[must_use]
    pub fn with(options: &Options, permissions: fn(Service) -> Permissions) -> Self {
        let hub = Hub { permissions, next: AtomicU64::new(0), shared: Mutex::default() };
        Self { hub: Arc::new(hub), options: options.clone() }
    }

    /// A new instance of `service`. When the last clone of it is dropped its streams end for their peers.
    #[must_use]
    pub fn bus(&self, service: Service) -> Bus {
        let node = Node {
            permissions: (self.hub.permissions)(service),
            hub: Arc::clone(&self.hub),
            ledger: Arc::new(Ledger::new(self.options.buffer_total, self.options.stream_window)),
            streams: Mutex::default(),
            instance: self.hub.next.fetch_add(1, Relaxed),
            next_id: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            status: watch::Sender::new(Status::Connected),
        };
        Bus::local(LocalEnd(Arc::new(node)))
    }
}

impl Default for LocalBus {
    fn default() -> Self {
        Self::new()
    }
}

struct Hub {
    permissions: fn(Service) -> Permissions,
    /// Numbers instances, and turns the queue groups.
    next: AtomicU64,
    shared: Mutex<Shared>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

/// The queue groups: one per subject, because one service serves a subject.
#[derive(Default)]
struct Shared {
    servers: HashMap<&'static str, Vec<Member<ToServer>>>,
    listeners: HashMap<StreamKind, Vec<Member<ToListener>>>,
}

type ToServer = mpsc::Sender<(Bytes, LocalReply)>;
type ToListener = (Arc<Node>, mpsc::Sender<(OpenHeader, BusStream)>);

struct Member<T> {
    instance: u64,
    to: T,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of `members` is next.
    fn turn(&self, members: usize) -> usize {
        let turn = self.next.fetch_add(1, Relaxed) % u64::try_from(members.max(1)).unwrap_or(1);
        usize::try_from(turn).unwrap_or(0)
    }
}

/// One instance. Streams hold it; only its [`LocalEnd`] ends it.
#[derive(Debug)]
pub(crate) struct Node {
    hub: Arc<Hub>,
    permissions: Permissions,
    ledger: Arc<Ledger>,
    streams: Mutex<HashMap<u64, Arc<Core>>>,
    instance: u64,
    next_id: AtomicU64,
    closed: AtomicBool,
    status: watch::Sender<Status>,
}

impl Node {
    pub(crate) fn forget(&self, id: u64) {
        let gone = self.lock_streams().remove(&id);
        drop(gone);
    }

    fn lock_streams(&self) -> MutexGuard<'_, HashMap<u64, Arc<Core>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new end in this instance, its window charged.
    fn end(&self, used: u32) -> Option<Arc<Core>> {
        let window = self.ledger.open(used)?;
        let id = self.next_id.fetch_add(1, Relaxed);
        Some(Arc::new(Core::new(id, Arc::clone(&self.ledger), window, used)))
    }

    fn stream(self: &Arc<Self>, core: Arc<Core>) -> BusStream {
        self.lock_streams().insert(core.id, Arc::clone(&core));
        BusStream::new(core, Wire::Local { node: Arc::clone(self) })
    }

    fn may_publish(&self, subject: &str) -> bool {
        self.permissions.publish.iter().any(|pattern| subjects::matches(pattern, subject))
    }

    fn may_subscribe(&self, subject: &str) -> Result<(), ServeError> {
        if self.closed.load(Relaxed) {
            Err(ServeError::Closed)
        } else if self.permissions.subscribe.iter().any(|pattern| subjects::matches(pattern, subject)) {
            Ok(())
        } else {
            Err(ServeError::Denied(subject.to_owned()))
        }
    }
}

/// The owner's hold on a node.
#[derive(Debug)]
pub(crate) struct LocalEnd(Arc<Node>);

impl Drop for LocalEnd {
    fn drop(&mut self) {
        self.close(GONE);
    }
}

impl LocalEnd {
    pub(crate) fn close(&self, reason: &str) {
        let node = &self.0;
        if node.closed.swap(true, Relaxed) {
            return;
        }
        node.status.send_replace(Status::Disconnected { reason: "bus closed".to_owned() });
        let mut removed = Vec::new();
        let mut hub = node.hub.lock();
        for servers in hub.servers.values_mut() {
            servers.retain(|member| member.instance != node.instance);
        }
        for listeners in hub.listeners.values_mut() {
            removed.extend(listeners.extract_if(.., |member| member.instance == node.instance));
        }
        drop(hub);
        drop(removed);
        let streams = std::mem::take(&mut *node.lock_streams());
        for core in streams.into_values() {
            core.fail("bus closed");
            if let Some(Route::Local(peer)) = core.route() {
                peer.fail(reason);
            }
        }
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    pub(crate) fn stats(&self) -> crate::Stats {
        self.0.ledger.stats()
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.0.ledger
    }

    pub(crate) async fn request<R: Request>(&self, request: &R) -> Result<R::Reply, RequestError<R::Error>> {
        let node = &self.0;
        let payload = request::encode_request(request)?;
        if node.closed.load(Relaxed) {
            return Err(RequestError::Unavailable("bus closed".to_owned()));
        }
        if !node.may_publish(R::SUBJECT) {
            return Err(RequestError::Denied(R::SUBJECT.to_owned()));
        }
        let (reply, answer) = oneshot::channel();
        let sent = {
            let mut hub = node.hub.lock();
            let servers = hub.servers.entry(R::SUBJECT).or_default();
            servers.retain(|member| !member.to.is_closed());
            let turn = node.hub.turn(servers.len());
            match servers.get(turn) {
                Some(server) => server.to.try_send((payload, reply)),
                None => return Err(RequestError::NoResponder),
            }
        };
        if sent.is_err() {
            return Err(RequestError::Unavailable("the service has too many requests".to_owned()));
        }
        match tokio::time::timeout(R::TIMEOUT, answer).await {
            Ok(Ok(answer)) => request::decode_answer::<R>(&answer),
            Ok(Err(_)) => Err(RequestError::Unavailable("the service stopped before it answered".to_owned())),
            Err(_) => Err(RequestError::Timeout(R::TIMEOUT)),
        }
    }

    pub(crate) fn intake<R: Request>(&self) -> Result<LocalIntake, ServeError> {
        let node = &self.0;
        node.may_subscribe(R::SUBJECT)?;
        let (to, intake) = mpsc::channel(MAX_CONCURRENT);
        let member = Member { instance: node.instance, to };
        node.hub.lock().servers.entry(R::SUBJECT).or_default().push(member);
        Ok(intake)
    }

    pub(crate) fn listen(&self, kind: StreamKind) -> Result<LocalListener, ServeError> {
        let node = &self.0;
        node.may_subscribe(subjects::stream_open(kind))?;
        let (to, listener) = mpsc::channel(BACKLOG);
        let member = Member { instance: node.instance, to: (Arc::clone(node), to) };
        node.hub.lock().listeners.entry(kind).or_default().push(member);
        Ok(listener)
    }

    pub(crate) async fn open(
        &self,
        kind: StreamKind,
        header: OpenHeader,
        first: Bytes,
    ) -> Result<BusStream, OpenError> {
        let opened = self.connect(kind, header, first);
        match &opened {
            Ok(_) => self.0.ledger.opened.fetch_add(1, Relaxed),
            Err(_) => self.0.ledger.refused.fetch_add(1, Relaxed),
        };
        // So that a loop of opens lets the listener's task run.
        tokio::task::consume_budget().await;
        opened
    }

    fn connect(&self, kind: StreamKind, header: OpenHeader, first: Bytes) -> Result<BusStream, OpenError> {
        let node = &self.0;
        if node.closed.load(Relaxed) {
            return Err(OpenError::Unavailable("bus closed".to_owned()));
        }
        let subject = subjects::stream_open(kind);
        if !node.may_publish(subject) {
            return Err(OpenError::Denied(subject.to_owned()));
        }
        let (peer, to) = {
            let mut hub = node.hub.lock();
            let listeners = hub.listeners.entry(kind).or_default();
            listeners.retain(|member| !member.to.1.is_closed());
            let turn = node.hub.turn(listeners.len());
            listeners.get(turn).ok_or(OpenError::NoInstance)?.to.clone()
        };
        let used = if first.is_empty() { 0 } else { cost(first.len()) };
        let (here, there) = (node.end(0).ok_or(OpenError::TooMany)?, peer.end(used).ok_or(OpenError::TooMany)?);
        here.connected(Route::Local(Arc::clone(&there)), there.granted(), Bytes::new());
        there.connected(Route::Local(Arc::clone(&here)), here.granted(), first);
        let (stream, accepted) = (node.stream(here), peer.stream(there));
        to.try_send((header, accepted)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OpenError::TooMany,
            mpsc::error::TrySendError::Closed(_) => OpenError::NoInstance,
        })?;
        peer.ledger.accepted.fetch_add(1, Relaxed);
        Ok(stream)
    }
}
