//! The clusters this control plane knows, and the links that reach them now.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use exchange::{Pool, PoolLimits};
use jiff::Timestamp;
use mux::MuxStream;
use protocol::{AgentId, ClusterId};
use serde::{Deserialize, Serialize};

use crate::proxy::RequestBody;
use crate::store::{Folder, StoreError};

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
    #[error("the control plane cannot store the registration")]
    Store(#[from] StoreError),
}

#[derive(Debug)]
pub struct Clusters {
    folder: Folder<ClusterRecord>,
    by_name: RwLock<HashMap<String, Arc<Cluster>>>,
}

#[derive(Debug)]
pub struct Cluster {
    record: Mutex<ClusterRecord>,
    links: Mutex<Vec<Arc<AgentLink>>>,
    next: AtomicUsize,
    /// Seconds since the epoch; 0: never.
    last_seen: AtomicI64,
}

/// One live link of a cluster's agent.
#[derive(Debug)]
pub struct AgentLink {
    pub agent_id: AgentId,
    pub agent_version: String,
    pub link: mux::Link,
    /// Streams whose last exchange ended cleanly.
    pub streams: Arc<Pool<MuxStream, RequestBody>>,
    /// The agent asked for no new streams.
    pub going_away: AtomicBool,
}

/// One stream serves one exchange after the other until it was idle for this long.
const STREAM_IDLE: Duration = Duration::from_secs(60);

impl AgentLink {
    pub fn new(agent_id: AgentId, agent_version: String, link: mux::Link, max_idle: usize) -> Self {
        let limits = PoolLimits { max_idle, idle_timeout: STREAM_IDLE };
        Self { agent_id, agent_version, link, streams: Pool::new(limits), going_away: AtomicBool::new(false) }
    }
}

impl Clusters {
    pub fn open(folder: Folder<ClusterRecord>) -> Result<Self, StoreError> {
        let by_name = folder.all()?.into_iter().map(|record| (record.name.clone(), Arc::new(Cluster::new(record))));
        Ok(Self { by_name: RwLock::new(by_name.collect()), folder })
    }

    /// By name, or by id.
    pub fn find(&self, cluster: &str) -> Option<Arc<Cluster>> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        by_name.get(cluster).or_else(|| by_name.values().find(|c| c.record().id.as_str() == cluster)).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Cluster>> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let mut clusters: Vec<_> = by_name.values().cloned().collect();
        drop(by_name);
        clusters.sort_by_key(|cluster| cluster.record().name.clone());
        clusters
    }

    /// Binds `agent` to the cluster its token names; the first time, the cluster gets its id.
    pub fn register(&self, name: &str, agent: &AgentId) -> Result<Arc<Cluster>, RegistrationRefused> {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = by_name.get(name) {
            cluster.adopt(agent, &self.folder)?;
            return Ok(Arc::clone(cluster));
        }
        let record = ClusterRecord {
            id: new_id(),
            name: name.to_owned(),
            created: Timestamp::now(),
            agent_id: Some(agent.clone()),
        };
        self.folder.put(name, &record)?;
        let cluster = Arc::new(Cluster::new(record));
        by_name.insert(name.to_owned(), Arc::clone(&cluster));
        Ok(cluster)
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
            next: AtomicUsize::new(0),
            last_seen: AtomicI64::new(0),
        }
    }

    pub fn record(&self) -> MutexGuard<'_, ClusterRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<AgentLink>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        if let Some(previous) = &record.agent_id {
            tracing::warn!(cluster = record.name, %previous, %agent, "another agent takes the cluster over");
        }
        let renewed = ClusterRecord { agent_id: Some(agent.clone()), ..record.clone() };
        folder.put(&renewed.name, &renewed)?;
        *record = renewed;
        Ok(())
    }

    /// Adds a link. One whose agent cannot share the cluster with other links replaces them: they are what is left of
    /// its own earlier connections.
    /// Refused when another agent has registered for the cluster since this link's did.
    pub fn add(&self, link: Arc<AgentLink>, shares: bool) -> Result<(), RegistrationRefused> {
        self.seen();
        let record = self.record();
        if let Some(owner) = record.agent_id.clone().filter(|owner| *owner != link.agent_id) {
            let (cluster, refused) = (record.name.clone(), link.agent_id.clone());
            return Err(RegistrationRefused::OtherAgent { cluster, owner, refused });
        }
        let mut links = self.links();
        if !shares {
            for old in links.drain(..) {
                old.link.close(mux::CloseCode::Policy, "replaced by a newer link of the same agent");
            }
        }
        links.push(link);
        Ok(())
    }

    pub fn remove(&self, link: &Arc<AgentLink>) {
        self.links().retain(|other| !Arc::ptr_eq(other, link));
        self.seen();
    }

    /// A link for a new request; they take turns.
    pub fn pick(&self) -> Option<Arc<AgentLink>> {
        let links = self.links();
        let usable = || links.iter().filter(|link| !link.going_away.load(Relaxed));
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

    pub fn last_seen(&self) -> Option<Timestamp> {
        match self.last_seen.load(Relaxed) {
            0 => None,
            second => Timestamp::from_second(second).ok(),
        }
    }
}
