//! Ports of the control plane that lead to ports of Services, for clients that speak whatever they like.
//!
//! ```text
//!   agent ── REST (api) ──┐
//!                         ├─► Registry (a folder) ──► Gateway: opens and closes ports ──► clients
//!   `tunnel create` ──────┘                                │ tcp, udp: a client each
//!                                                          └─► reach: a stream, or messages, over the cluster's link
//! ```
//!
//! Level-triggered: the ports that are open are those of the records that there are. A port belongs to its tunnel as long
//! as the record is there, across restarts.

mod answering;
pub mod api;
pub mod callers;
mod metrics;
mod ports;
mod reach;
mod record;
mod registry;
mod tcp;
mod udp;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use protocol::{ClusterId, StreamKind, Target, Tunnel};
use runtime::error_text;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use metrics::TunnelMetrics;
pub use ports::PortRange;
pub use record::{Owner, TunnelRecord};
pub use registry::{Known, Registry};

use self::ports::{Bind, Bound};
use self::reach::{Unreachable, Way};
use crate::clusters::Clusters;
use crate::options;

/// How soon a port that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often it is said that clients of one tunnel are not served.
const COMPLAIN: Duration = Duration::from_secs(10);

/// What the ports share.
#[derive(Debug)]
pub struct Shared {
    pub clusters: Arc<Clusters>,
    pub options: options::Gateway,
    pub metrics: Arc<TunnelMetrics>,
    /// Clients' connections.
    pub tasks: TaskTracker,
    /// Ends what is left of them.
    pub cut: CancellationToken,
}

/// Whether a tunnel's port is open, or why it is not; by the tunnel's name.
pub type States = BTreeMap<String, Result<u16, String>>;

/// Keeps the ports that are open those of the registry.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    open: HashMap<String, OpenPort>,
    states: watch::Sender<Arc<States>>,
}

/// One open port.
#[derive(Debug)]
struct OpenPort {
    port: Arc<Port>,
    number: u16,
    /// Takes the port's clients.
    serving: JoinSet<()>,
}

/// A tunnel whose port is open, as its clients' tasks see it.
#[derive(Debug)]
pub struct Port {
    name: String,
    shared: Arc<Shared>,
    cluster: ClusterId,
    served: RwLock<Served>,
    /// The tunnel is there no more.
    ended: CancellationToken,
    complained: Mutex<Option<Timestamp>>,
    /// Clients since then that were not served.
    unserved: AtomicI64,
}

/// Where new clients are taken.
#[derive(Clone, Debug)]
pub struct Served {
    tunnel: Arc<TunnelRecord>,
    target: Target,
}

impl Port {
    fn served(&self) -> Served {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn open(&self, kind: StreamKind, served: &Served, client: SocketAddr) -> Result<Way, Unreachable> {
        let cluster = self.shared.clusters.find(self.cluster.as_str());
        let cluster = cluster.ok_or_else(|| Unreachable::NoLink("the tunnel's cluster is not known".to_owned()))?;
        reach::open(&cluster, kind, &served.tunnel.tunnel, &served.target, client).await
    }

    /// Says why clients are not served: once in a while, however many come.
    fn complain(&self, client: SocketAddr, why: &(dyn std::error::Error + 'static)) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Timestamp::now();
        if complained.is_some_and(|last| now.duration_since(last).unsigned_abs() < COMPLAIN) {
            self.unserved.fetch_add(1, Relaxed);
            return;
        }
        *complained = Some(now);
        drop(complained);
        let others = self.unserved.swap(0, Relaxed);
        let served = self.served();
        tracing::warn!(
            tunnel = self.name,
            service = %served.target,
            %client,
            others,
            error = error_text(why),
            "a tunnel's client is not served"
        );
    }
}

impl Gateway {
    pub fn new(shared: Arc<Shared>, registry: Arc<Registry>) -> Self {
        Self { shared, registry, open: HashMap::new(), states: watch::Sender::default() }
    }

    pub fn states(&self) -> watch::Receiver<Arc<States>> {
        self.states.subscribe()
    }

    /// Until `stop`; then the ports are closed, and connections go on.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changed = self.registry.subscribe();
        loop {
            let failed = self.reconcile().await;
            tokio::select! {
                Ok(()) = changed.changed() => {}
                () = sleep(AGAIN), if failed => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// True if a port could not be opened that should be.
    async fn reconcile(&mut self) -> bool {
        let known = self.registry.all();
        let gone = |name: &String, open: &mut OpenPort| known.get(name).is_none_or(|record| !open.is_of(record));
        for (name, mut open) in self.open.extract_if(gone) {
            open.serving.shutdown().await;
            open.port.ended.cancel();
            tracing::info!(tunnel = name, port = open.number, "a tunnel's port is closed");
        }
        let mut states = States::new();
        for (name, record) in &known {
            let Some(state) = self.ensure(record, &known).await else { continue };
            if let Err(error) = &state
                && self.states.borrow().get(name) != Some(&state)
            {
                tracing::error!(tunnel = name, error, "a tunnel's port cannot be opened");
            }
            states.insert(name.clone(), state);
        }
        let failed = states.values().filter(|state| state.is_err()).count();
        self.shared.metrics.ports.store(i64::try_from(self.open.len()).unwrap_or(i64::MAX), Relaxed);
        self.shared.metrics.failed_ports.store(i64::try_from(failed).unwrap_or(i64::MAX), Relaxed);
        self.states.send_replace(Arc::new(states));
        failed > 0
    }

    /// None: it needs no port.
    async fn ensure(&mut self, record: &Arc<TunnelRecord>, known: &Known) -> Option<Result<u16, String>> {
        if !record.tunnel.has_port() {
            return None;
        }
        let target = match record.tunnel.check() {
            Ok(target) => target,
            Err(error) => return Some(Err(error_text(&error))),
        };
        let served = Served { tunnel: Arc::clone(record), target };
        if let Some(open) = self.open.get(&record.name) {
            *open.port.served.write().unwrap_or_else(PoisonError::into_inner) = served;
            return Some(Ok(open.number));
        }
        let bound = match ports::bind(&self.shared.options, record, known).await {
            Ok(bound) => bound,
            Err(error) => return Some(Err(error_text(&error))),
        };
        let number = bound.port;
        if record.tunnel.tunnel_port.is_none() {
            let mut assigned = (**record).clone();
            assigned.tunnel.tunnel_port = Some(number);
            match self.registry.change(move |folder| folder.replace(&assigned)).await {
                // It is as good as closed: the folder says that it is gone.
                Ok(false) => return None,
                Ok(true) => {}
                Err(error) => return Some(Err(error_text(&error))),
            }
        }
        self.start(record, served, bound);
        Some(Ok(number))
    }

    fn start(&mut self, record: &TunnelRecord, served: Served, bound: Bound) {
        let service = served.target.to_string();
        let port = Arc::new(Port {
            name: record.name.clone(),
            shared: Arc::clone(&self.shared),
            cluster: record.cluster.clone(),
            served: RwLock::new(served),
            ended: self.shared.cut.child_token(),
            complained: Mutex::default(),
            unserved: AtomicI64::new(0),
        });
        let mut serving = JoinSet::new();
        match bound.bind {
            Bind::Tcp(listener) => serving.spawn(tcp::serve(listener, Arc::clone(&port))),
            Bind::Udp(socket) => serving.spawn(udp::serve(socket, Arc::clone(&port))),
        };
        tracing::info!(tunnel = record.name, port = bound.port, service, "a tunnel's port is open");
        self.open.insert(record.name.clone(), OpenPort { port, number: bound.port, serving });
    }
}

impl OpenPort {
    /// Whether it is what `record` asks for. Where it leads may have changed.
    fn is_of(&self, record: &TunnelRecord) -> bool {
        let served = self.port.served();
        record.tunnel.has_port()
            && record.cluster == self.port.cluster
            && record.tunnel.protocol == served.tunnel.tunnel.protocol
            && record.tunnel.tunnel_port.is_none_or(|port| port == self.number)
    }
}

/// The tunnel as clients of the API see it; `host` is under which they reach the control plane.
pub fn shown(record: &TunnelRecord, state: Option<&Result<u16, String>>, host: &str) -> Tunnel {
    let mut tunnel = record.tunnel.clone();
    match state {
        Some(Ok(port)) => {
            tunnel.tunnel_port = Some(*port);
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            tunnel.tunnel_endpoint = Some(format!("{host}:{port}"));
        }
        Some(Err(error)) => tunnel.error = Some(error.clone()),
        None if tunnel.has_port() => tunnel.error = Some("its port is not open yet".to_owned()),
        None => tunnel.tunnel_endpoint = tunnel.public_endpoint.clone(),
    }
    tunnel
}
