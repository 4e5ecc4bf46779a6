//! The clusters this control plane knows, and the links that reach them now.

mod limits;
mod presence;
mod reach;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use exchange::{Pool, PoolLimits};
use jiff::Timestamp;
use mux::MuxStream;
use protocol::message::HeartbeatMetadata;
use protocol::{AgentId, ClusterId, ConfigAck, Target};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub use limits::{Limits, Place, TooMany};
pub use presence::{Presence, Present};

use crate::older::OlderLink;
use crate::store::{Complaints, Contents, Folder, Record, StoreError};

/// A cluster as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterRecord {
    pub id: ClusterId,
    pub name: String,
    pub created: Timestamp,
    /// The agent that registered last.
    pub agent_id: Option<AgentId>,
}

/// Why a registration is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationRefused {
    #[error(
        "cluster {cluster:?} is served by agent {owner} right now; agent {refused} cannot take it over while that one is connected. Give each cluster a token of its own"
    )]
    OtherAgent { cluster: String, owner: AgentId, refused: AgentId },
    #[error(
        "the token belongs to agent {owner}, and agent {refused} shows it: give this agent a token of its own, or its agent id back (agent.id)"
    )]
    OtherAgentsToken { owner: AgentId, refused: AgentId },
    #[error("the control plane cannot store the registration, its log says why; ask whoever runs it")]
    Store(#[from] StoreError),
}

#[derive(Debug)]
pub struct Clusters {
    folder: Folder<ClusterRecord>,
    known: RwLock<Known>,
    /// Registrations of one cluster take turns; those of different clusters do not wait for each other.
    turns: Mutex<HashMap<String, Turn>>,
}

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<String, Arc<Cluster>>,
    by_id: HashMap<String, Arc<Cluster>>,
}

type Turn = Arc<tokio::sync::Mutex<()>>;

#[derive(Debug)]
pub struct Cluster {
    record: Mutex<ClusterRecord>,
    links: Mutex<Vec<Arc<AgentLink>>>,
    /// Agents that have registered and are there, of whatever kind.
    present: Mutex<Vec<Present>>,
    arrivals: AtomicU64,
    next: AtomicUsize,
    asked: Arc<limits::Asked>,
    /// The same of those who visit its web apps, who may be anybody.
    visited: Arc<limits::Asked>,
    /// Seconds since the epoch; 0: never.
    last_seen: AtomicI64,
    told: Mutex<Told>,
}

/// What the cluster's agent has said of it last.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub heartbeat: Option<HeartbeatMetadata>,
    pub config: Option<ConfigAck>,
}

/// One live link of a cluster's agent.
#[derive(Debug)]
pub struct AgentLink {
    pub agent_id: AgentId,
    pub link: mux::Link,
    pub carrier: Carrier,
    /// Idle streams that lead to Services.
    services: Mutex<HashMap<Target, Arc<Pool<MuxStream>>>>,
    limits: PoolLimits,
    /// Cancelled when the agent asks for no new streams.
    leaving: CancellationToken,
    /// Cancelled with it, and when the control plane is about to end the link.
    pub ending: CancellationToken,
}

/// How a link carries requests.
#[derive(Debug)]
pub enum Carrier {
    /// As streams: those whose last exchange ended cleanly.
    Streams(Arc<Pool<MuxStream>>),
    /// As messages.
    Messages(OlderLink),
}

/// One stream serves one exchange after the other until it was idle for this long.
const STREAM_IDLE: Duration = Duration::from_secs(60);

impl AgentLink {
    pub fn new(agent_id: AgentId, link: mux::Link, max_idle: usize, leaving: &CancellationToken) -> Self {
        let limits = PoolLimits { max_idle, idle_timeout: STREAM_IDLE };
        Self::carrying(agent_id, link, Carrier::Streams(Pool::new(limits)), limits, leaving)
    }

    /// Of an agent that speaks only the older protocol.
    pub fn older(
        agent_id: AgentId,
        link: mux::Link,
        older: OlderLink,
        max_idle: usize,
        leaving: &CancellationToken,
    ) -> Self {
        let limits = PoolLimits { max_idle, idle_timeout: STREAM_IDLE };
        Self::carrying(agent_id, link, Carrier::Messages(older), limits, leaving)
    }

    fn carrying(
        agent_id: AgentId,
        link: mux::Link,
        carrier: Carrier,
        limits: PoolLimits,
        leaving: &CancellationToken,
    ) -> Self {
        let (leaving, ending) = (leaving.clone(), leaving.child_token());
        Self { agent_id, link, carrier, services: Mutex::default(), limits, leaving, ending }
    }

    /// Its idle streams to that Service, if it carries any: those of the older protocol lead to its port.
    pub fn service(&self, target: &Target) -> Option<Arc<Pool<MuxStream>>> {
        if self.streams().is_none() && !self.link.carries_streams() {
            return None;
        }
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = services.get(target) {
            return Some(Arc::clone(pool));
        }
        Some(Arc::clone(services.entry(target.clone()).or_insert_with(|| Pool::new(self.limits))))
    }

    /// Its idle streams to the API server, if it carries any.
    pub fn streams(&self) -> Option<&Arc<Pool<MuxStream>>> {
        match &self.carrier {
            Carrier::Streams(streams) => Some(streams),
            Carrier::Messages(_) => None,
        }
    }

    /// What carries messages, if that is how.
    pub fn messages(&self) -> Option<&OlderLink> {
        match &self.carrier {
            Carrier::Streams(_) => None,
            Carrier::Messages(older) => Some(older),
        }
    }

    /// Ends the streams that are idle: all of them, or those that have been so for long.
    pub fn tidy(&self, all: bool) {
        self.services.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, pool| {
            if all {
                pool.clear()
            } else {
                pool.sweep()
            }
            // A request that is under way keeps its pool.
            pool.idle() > 0 || Arc::strong_count(pool) > 1
        });
        match self.streams() {
            Some(streams) if all => streams.clear(),
            Some(streams) => streams.sweep(),
            None => {}
        }
    }

    /// No request is under way.
    pub fn is_idle(&self) -> bool {
        self.link.stats().open_streams == 0 && self.messages().is_none_or(OlderLink::is_idle)
    }

    /// The link has ended.
    pub fn end(&self) {
        self.tidy(true);
        if let Some(older) = self.messages() {
            older.end();
        }
    }
}

impl Clusters {
    /// Reads what is stored. Blocks.
    pub fn open(folder: Folder<ClusterRecord>) -> Result<Self, StoreError> {
        let Contents { records, broken } = folder.all()?;
        Complaints::default().tell(&broken, "the cluster cannot register before its file is restored or removed");
        let clusters = Self { known: RwLock::default(), folder, turns: Mutex::default() };
        for record in records {
            clusters.insert(record);
        }
        Ok(clusters)
    }

    /// By name, or by id.
    pub fn find(&self, cluster: &str) -> Option<Arc<Cluster>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_name.get(cluster).or_else(|| known.by_id.get(cluster)).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Cluster>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut clusters: Vec<_> = known.by_name.values().cloned().collect();
        drop(known);
        clusters.sort_by_key(|cluster| cluster.record().name.clone());
        clusters
    }

    /// Binds `agent` to the cluster its token names; the first time, the cluster gets its id.
    pub async fn register(self: &Arc<Self>, name: &str, agent: &AgentId) -> Result<Arc<Cluster>, RegistrationRefused> {
        if let Some(cluster) = self.named(name)
            && cluster.record().agent_id.as_ref() == Some(agent)
        {
            return Ok(cluster);
        }
        let turn = self.turn(name).lock_owned().await;
        let (this, name, agent) = (Arc::clone(self), name.to_owned(), agent.clone());
        let storing = spawn_blocking(move || {
            let outcome = this.store(&name, &agent);
            // Not before: a caller that is gone leaves the registration under way.
            drop(turn);
            outcome
        });
        storing.await.map_err(|died| self.folder.unusable(died.into()))?
    }

    /// [`Clusters::register`] by one caller at a time for each name. Blocks.
    fn store(&self, name: &str, agent: &AgentId) -> Result<Arc<Cluster>, RegistrationRefused> {
        if let Some(cluster) = self.named(name) {
            cluster.adopt(agent, &self.folder)?;
            return Ok(cluster);
        }
        // A file that could not be read at the start may have been mended; while it is broken, it is no reason to give
        // the cluster another identity.
        if let Some(stored) = self.folder.get(name)? {
            let cluster = self.insert(stored);
            cluster.adopt(agent, &self.folder)?;
            return Ok(cluster);
        }
        let record = ClusterRecord {
            id: new_id(),
            name: name.to_owned(),
            created: Timestamp::now(),
            agent_id: Some(agent.clone()),
        };
        self.folder.put(&record)?;
        Ok(self.insert(record))
    }

    fn insert(&self, record: ClusterRecord) -> Arc<Cluster> {
        let (name, id) = (record.name.clone(), record.id.to_string());
        let cluster = Arc::new(Cluster::new(record));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.by_id.insert(id, Arc::clone(&cluster));
        known.by_name.insert(name, Arc::clone(&cluster));
        cluster
    }

    fn named(&self, name: &str) -> Option<Arc<Cluster>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name).cloned()
    }

    fn turn(&self, name: &str) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(name.to_owned()).or_default())
    }
}

impl Record for ClusterRecord {
    fn name(&self) -> &str {
        &self.name
    }
}

fn new_id() -> ClusterId {
    // A UUID consists of characters that every identifier may have.
    ClusterId::new(uuid::Uuid::new_v4().to_string()).unwrap_or_else(|_| unreachable!("a UUID is a valid id"))
}

impl Cluster {
    fn new(record: ClusterRecord) -> Self {
        Self {
            record: Mutex::new(record),
            links: Mutex::default(),
            present: Mutex::default(),
            arrivals: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            asked: Arc::default(),
            visited: Arc::default(),
            last_seen: AtomicI64::new(0),
            told: Mutex::default(),
        }
    }

    pub fn record(&self) -> MutexGuard<'_, ClusterRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<AgentLink>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn present(&self) -> MutexGuard<'_, Vec<Present>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agents that are there now.
    pub fn agents(&self) -> Vec<Present> {
        self.present().clone()
    }

    /// Makes `agent` the cluster's, unless another one's link is up. Blocks; only the file is written meanwhile, no lock
    /// is held.
    fn adopt(&self, agent: &AgentId, folder: &Folder<ClusterRecord>) -> Result<(), RegistrationRefused> {
        let mut record = self.record();
        if record.agent_id.as_ref() == Some(agent) {
            return Ok(());
        }
        if let Some(other) = self.links().iter().find(|link| link.agent_id != *agent) {
            return Err(RegistrationRefused::OtherAgent {
                cluster: record.name.clone(),
                owner: other.agent_id.clone(),
                refused: agent.clone(),
            });
        }
        // From here on the previous agent can add no link.
        let previous = record.agent_id.replace(agent.clone());
        let renewed = record.clone();
        drop(record);
        if let Err(error) = folder.put(&renewed) {
            self.record().agent_id = previous;
            return Err(error.into());
        }
        if let Some(previous) = previous {
            tracing::warn!(cluster = renewed.name, %previous, %agent, "another agent takes the cluster over");
        }
        Ok(())
    }

    /// Lets a request in, if that is within `limits`.
    pub fn enter(&self, limits: &Limits) -> Result<Place, TooMany> {
        self.asked.enter(limits)
    }

    /// The same for a visitor of a web app: users find room whatever visitors ask.
    pub fn visit(&self, limits: &Limits) -> Result<Place, TooMany> {
        self.visited.enter(limits)
    }

    /// Adds a link. One whose agent cannot share the cluster with other links replaces them: they are what is left of
    /// its own earlier connections; so does any link with those over which requests go as messages.
    /// Refused when another agent has registered for the cluster since this link's did.
    pub fn add(&self, link: Arc<AgentLink>, shares: bool) -> Result<(), RegistrationRefused> {
        self.seen();
        let record = self.record();
        if let Some(owner) = record.agent_id.clone().filter(|owner| *owner != link.agent_id) {
            let (cluster, refused) = (record.name.clone(), link.agent_id.clone());
            return Err(RegistrationRefused::OtherAgent { cluster, owner, refused });
        }
        let mut links = self.links();
        links.retain(|old| {
            let stays = shares && old.messages().is_none();
            if !stays {
                old.link.close(mux::CloseCode::Policy, "replaced by a newer link of the same agent");
            }
            stays
        });
        links.push(link);
        Ok(())
    }

    pub fn remove(&self, link: &Arc<AgentLink>) {
        self.links().retain(|other| !Arc::ptr_eq(other, link));
        self.seen();
    }

    /// A link for a new request, none of those that were tried for it; they take turns.
    pub fn pick(&self, tried: &[Arc<AgentLink>]) -> Option<Arc<AgentLink>> {
        let links = self.links();
        let is_new = |link: &Arc<AgentLink>| !tried.iter().any(|tried| Arc::ptr_eq(tried, link));
        let usable = || links.iter().filter(|link| !link.leaving.is_cancelled() && is_new(link));
        let count = usable().count();
        let turn = self.next.fetch_add(1, Relaxed).checked_rem(count)?;
        usable().nth(turn).cloned()
    }

    pub fn live_links(&self) -> Vec<Arc<AgentLink>> {
        self.links().clone()
    }

    pub fn seen(&self) {
        self.last_seen.store(Timestamp::now().as_second(), Relaxed);
    }

    pub fn hear(&self, heartbeat: HeartbeatMetadata) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).heartbeat = Some(heartbeat);
    }

    pub fn acknowledge(&self, config: ConfigAck) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).config = Some(config);
    }

    pub fn told(&self) -> Told {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn last_seen(&self) -> Option<Timestamp> {
        match self.last_seen.load(Relaxed) {
            0 => None,
            second => Timestamp::from_second(second).ok(),
        }
    }
}
