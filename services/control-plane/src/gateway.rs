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
mod proxy_header;
pub mod reach;
mod record;
mod registry;
pub mod tcp;
mod udp;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use protocol::{ClusterId, StreamKind, Target, Tunnel};
use runtime::error_text;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use metrics::TunnelMetrics;
pub use ports::PortRange;
pub use record::{Owner, TunnelRecord};
pub use registry::Registry;

use self::ports::{Bind, Bound, Taken};
use self::reach::{Unreachable, Way};
use crate::clusters::Clusters;
use crate::options;
use crate::store::StoreError;

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
    /// For clients of all tunnels together.
    pub places: Arc<Semaphore>,
    /// For those of each cluster.
    pub of_clusters: Mutex<HashMap<ClusterId, Arc<Semaphore>>>,
}

/// A client's place among those of its cluster, and of all.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "owned, not used")] [OwnedSemaphorePermit; 2]);

impl Shared {
    pub fn new(
        clusters: Arc<Clusters>,
        options: options::Gateway,
        metrics: Arc<TunnelMetrics>,
        tasks: TaskTracker,
        cut: CancellationToken,
    ) -> Self {
        let places = semaphore(options.max_clients_total);
        Self { clusters, options, metrics, tasks, cut, places, of_clusters: Mutex::default() }
    }

    fn places_of(&self, cluster: &ClusterId) -> Arc<Semaphore> {
        let mut of_clusters = self.of_clusters.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(of_clusters.entry(cluster.clone()).or_insert_with(|| semaphore(self.options.max_clients)))
    }
}

fn semaphore(places: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)))
}

/// What became of tunnels, by name.
pub type States = BTreeMap<String, State>;

/// Whether a tunnel's port is open, or why it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// As it was asked for when that was so.
    pub of: Arc<TunnelRecord>,
    pub port: Result<u16, String>,
}

/// Keeps the ports that are open those of the registry.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    open: HashMap<String, OpenPort>,
    states: watch::Sender<States>,
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
    /// For clients of the cluster.
    places: Arc<Semaphore>,
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

    /// A way to the cluster, and the client's place, which is to be kept as long.
    async fn open(&self, kind: StreamKind, served: &Served, client: SocketAddr) -> Result<(Way, Place), Unreachable> {
        let place = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned();
        let of_cluster = place(&self.places).map_err(|_| Unreachable::TooMany("gateway.max_clients"))?;
        let of_all = place(&self.shared.places).map_err(|_| Unreachable::TooMany("gateway.max_clients_total"))?;
        let cluster = self.shared.clusters.find(self.cluster.as_str());
        let cluster = cluster.ok_or_else(|| Unreachable::NoLink("the tunnel's cluster is not known".to_owned()))?;
        let way = reach::open(&cluster, kind, &served.tunnel.tunnel, &served.target, client).await?;
        Ok((way, Place([of_cluster, of_all])))
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

    pub fn states(&self) -> watch::Receiver<States> {
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
        let has_port = |name: &String| known.get(name).is_some_and(|record| record.tunnel.has_port());
        self.states.send_modify(|states| states.retain(|name, _| has_port(name)));
        let mut taken = ports::taken(&known);
        let mut failed = 0_u32;
        for record in known.values().filter(|record| record.tunnel.has_port()) {
            let Some(state) = self.ensure(record, &mut taken).await else { continue };
            failed += u32::from(state.port.is_err());
            self.publish(state);
        }
        self.shared.metrics.ports.store(i64::try_from(self.open.len()).unwrap_or(i64::MAX), Relaxed);
        self.shared.metrics.failed_ports.store(failed.into(), Relaxed);
        failed > 0
    }

    fn publish(&self, state: State) {
        let name = &state.of.name;
        self.states.send_if_modified(|states| {
            let before = states.get(name);
            if before == Some(&state) {
                return false;
            }
            if let Err(error) = &state.port
                && before.is_none_or(|before| before.port != state.port)
            {
                tracing::error!(tunnel = name, error, "a tunnel's port cannot be opened");
            }
            states.insert(name.clone(), state.clone());
            true
        });
    }

    /// None: it is gone, or asks for something else by now.
    async fn ensure(&mut self, record: &Arc<TunnelRecord>, taken: &mut Taken) -> Option<State> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Some(State { of: Arc::clone(record), port: Err(error_text(error)) })
        };
        let target = match record.tunnel.check() {
            Ok(target) => target,
            Err(error) => return failed(&error),
        };
        let (number, bound) = match self.open.get(&record.name) {
            Some(open) => (open.number, None),
            None => match ports::bind(&self.shared.options, record, taken).await {
                Ok(bound) => (bound.port, Some(bound)),
                Err(error) => return failed(&error),
            },
        };
        let record = match self.assign(record, number).await {
            Ok(assigned) => assigned?,
            Err(error) => return failed(&error),
        };
        taken.insert((record.tunnel.protocol, number), record.name.clone());
        let served = Served { tunnel: Arc::clone(&record), target };
        match (bound, self.open.get(&record.name)) {
            (Some(bound), _) => self.start(&record, served, bound),
            (None, Some(open)) => *open.port.served.write().unwrap_or_else(PoisonError::into_inner) = served,
            (None, None) => {}
        }
        Some(State { of: record, port: Ok(number) })
    }

    /// The record with the port that it has from now on. None: it is gone, or asks for something else by now.
    async fn assign(&self, record: &Arc<TunnelRecord>, number: u16) -> Result<Option<Arc<TunnelRecord>>, StoreError> {
        if record.tunnel.tunnel_port == Some(number) {
            return Ok(Some(Arc::clone(record)));
        }
        let asked = Arc::clone(record);
        let assigning = self.registry.change(move |folder, changes| {
            let stored = folder.get(&asked.name)?;
            let Some(mut same) = stored.clone().filter(|stored| stored.asks_the_same(&asked)) else {
                changes.push((asked.name.clone(), stored));
                return Ok(None);
            };
            same.tunnel.tunnel_port = Some(number);
            let is_there = folder.replace(&same)?;
            changes.push((same.name.clone(), is_there.then(|| same.clone())));
            Ok(is_there.then(|| Arc::new(same)))
        });
        assigning.await
    }

    fn start(&mut self, record: &TunnelRecord, served: Served, bound: Bound) {
        let service = served.target.to_string();
        let port = Arc::new(Port {
            name: record.name.clone(),
            shared: Arc::clone(&self.shared),
            cluster: record.cluster.clone(),
            places: self.shared.places_of(&record.cluster),
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
            && record.asked_port.is_none_or(|port| port == self.number)
            && record.tunnel.tunnel_port.is_none_or(|port| port == self.number)
    }
}

/// The tunnel as clients of the API see it; `host` is under which they reach the control plane.
pub fn shown(record: &TunnelRecord, state: Option<&State>, host: &str) -> Tunnel {
    let mut tunnel = record.tunnel.clone();
    match state.map(|state| &state.port) {
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
