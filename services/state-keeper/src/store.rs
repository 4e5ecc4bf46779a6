//! The state itself: read through, written by compare-and-swap, remembered for when the storage is away.

mod tokens;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::state::{
    AcquireLease, Done, Identity, LeaseState, ReleaseLease, SaveConfig, SaveRegistration, StateError, StoredConfig,
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret as SecretObject};
use protocol::{AgentId, ClusterId};
use runtime::{Condition, Health};

use crate::leases::Leases;
use crate::record::{self, Config, Corrupt, Record};
use crate::storage::{Object, Storage, StorageError};

/// Attempts of one write; each but the first follows a write of somebody else.
pub(crate) const ATTEMPTS: u32 = 8;

/// Longest wait before the second attempt; each further one waits that much longer.
const BACKOFF: Duration = Duration::from_millis(20);

/// A whole operation: below the 5 s after which whoever asked on the bus no longer waits.
const DEADLINE: Duration = Duration::from_secs(4);

/// The agent's identity, what it was given, and where it is kept.
#[derive(Debug)]
pub(crate) struct Store {
    storage: Storage,
    map_name: String,
    secret_name: String,
    /// The agent id that the configuration demands.
    configured: Option<AgentId>,
    memory: Mutex<Known>,
    /// Writers of this process wait for each other instead of losing against each other.
    writing: tokio::sync::Mutex<()>,
    leases: Leases,
    /// Whether the storage can be reached.
    storage_condition: Condition,
    state: Condition,
    config: Condition,
}

/// What was last known to be stored.
#[derive(Clone, Debug, Default)]
struct Known {
    identity: Option<Identity>,
    /// None: not looked at yet.
    config: Option<Config>,
}

impl Store {
    pub fn new(storage: Storage, names: &crate::State, configured: Option<AgentId>, health: &Health) -> Self {
        Self {
            storage_condition: health.condition(storage.condition()),
            storage,
            map_name: names.configmap_name.clone(),
            secret_name: names.secret_name.clone(),
            configured,
            memory: Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
            leases: Leases::default(),
            state: health.condition("state"),
            config: health.condition("config"),
        }
    }

    /// Who this agent is; the first call ever makes the agent id. While the storage is away it is what was last
    /// known, if anything was.
    pub async fn identity(&self) -> Result<Identity, StateError> {
        match self.judged(self.edit(|_| Ok(()))).await {
            Err(StateError::Unavailable { reason }) => {
                let known = self.known().identity.clone();
                if known.is_some() {
                    tracing::warn!(reason, "answering with the identity last known");
                }
                known.ok_or(StateError::Unavailable { reason })
            }
            outcome => outcome,
        }
    }

    /// Keeps what the control plane answered to a registration.
    ///
    /// Another cluster id than the stored one replaces it, unless somebody else stored a third meanwhile.
    pub async fn save(&self, registration: SaveRegistration) -> Result<Identity, StateError> {
        self.judged(self.save_both(registration)).await
    }

    /// What the control plane wishes of the cluster, from memory once it was read.
    pub async fn config(&self) -> Result<StoredConfig, StateError> {
        let known = self.known().config.clone();
        let config = match known {
            Some(config) => config,
            None => {
                self.check().await?;
                self.known().config.clone().unwrap_or_default()
            }
        };
        match config {
            Config::None => Ok(StoredConfig { config: None }),
            Config::Wish(config) => Ok(StoredConfig { config: Some(Arc::unwrap_or_clone(config)) }),
            Config::Broken(reason) => Err(StateError::Corrupt { reason: reason.to_string() }),
        }
    }

    /// Keeps what the control plane wishes of the cluster. It replaces one that cannot be read, which is kept beside it.
    pub async fn save_config(&self, SaveConfig { config }: SaveConfig) -> Result<Done, StateError> {
        config.check().map_err(|e| StateError::Invalid { reason: format!("this is no configuration: {e}") })?;
        let config = Config::Wish(Arc::new(config));
        let save = self.edit(|record| {
            record.config.clone_from(&config);
            Ok(())
        });
        self.judged(save).await.map(|_| Done {})
    }

    pub async fn acquire_lease(&self, wanted: AcquireLease) -> Result<LeaseState, StateError> {
        self.bounded(self.leases.acquire(&self.storage, &wanted)).await
    }

    pub async fn release_lease(&self, given: ReleaseLease) -> Result<Done, StateError> {
        self.bounded(self.leases.release(&self.storage, &given)).await
    }

    /// Reads the state without changing anything, to see that it can be read and what others have written.
    pub async fn check(&self) -> Result<(), StateError> {
        self.judged(async {
            let stored = self.map().await?;
            let record = stored.map(|map| self.record(&map)).transpose()?;
            self.remember(record.unwrap_or_default());
            Ok(())
        })
        .await
    }

    async fn save_both(&self, registration: SaveRegistration) -> Result<Identity, StateError> {
        let SaveRegistration { cluster_id, gateway_ws_url, cluster_token } = registration;
        // The agent id is stored before any token is: a token alone means that the ConfigMap was lost.
        let before = self.edit(|_| Ok(())).await?.cluster_id;
        let moved = before.as_ref().is_some_and(|before| *before != cluster_id);
        if moved {
            tracing::warn!(?before, after = %cluster_id, "the control plane registered this agent as another cluster");
        }
        // First the token: a cluster id is never seen without the token that belongs to it.
        if cluster_token.is_some() || moved {
            self.save_cluster_token(cluster_token.as_ref().filter(|token| !token.is_empty())).await?;
        }
        self.edit(|record| {
            check_owner(record.cluster_id.as_ref(), before.as_ref(), &cluster_id)?;
            record.cluster_id = Some(cluster_id.clone());
            record.gateway_ws_url.clone_from(&gateway_ws_url);
            Ok(())
        })
        .await
    }

    /// Changes the ConfigMap by `change`, and makes the agent id when there is none.
    async fn edit(&self, change: impl Fn(&mut Record) -> Result<(), StateError>) -> Result<Identity, StateError> {
        let _writing = self.writing.lock().await;
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let stored = self.map().await?;
            let mut record = match &stored {
                Some(map) => self.record(map)?,
                None => self.lost().await?,
            };
            let agent_id = self.agent_id(record.agent_id.take());
            record.agent_id = Some(agent_id);
            change(&mut record)?;
            let mut map = stored.unwrap_or_else(|| record::new_map(&self.map_name));
            let changed = record.write(&mut map).map_err(|e| StateError::Invalid { reason: e.to_string() })?;
            if changed || map.metadata.resource_version.is_none() {
                match self.storage.save(&map).await {
                    Ok(_) => tracing::info!(agent_id = ?record.agent_id, cluster_id = ?record.cluster_id, "stored"),
                    Err(StorageError::Conflict) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            let identity = record.identity();
            self.remember(record);
            if let Some(identity) = identity {
                return Ok(identity);
            }
        }
        Err(self.contended::<ConfigMap>(&self.map_name))
    }

    /// The content to begin with when there is no ConfigMap: that of memory; else a new one, unless a token says that
    /// this agent was registered before: then a new id would be a second identity by accident.
    async fn lost(&self) -> Result<Record, StateError> {
        let Known { identity, config } = self.known().clone();
        if let Some(Identity { agent_id, cluster_id, gateway_ws_url }) = identity {
            tracing::warn!(config_map = self.map_name, "the stored identity is gone, restoring it from memory");
            let config = config.unwrap_or_default();
            return Ok(Record { agent_id: Some(agent_id), cluster_id, gateway_ws_url, config });
        }
        let secret = self.secret().await?;
        if secret.is_some_and(|secret| record::tokens_say_registered(&secret)) && self.configured.is_none() {
            let map = self.storage.place::<ConfigMap>(&self.map_name);
            let secret = self.storage.place::<SecretObject>(&self.secret_name);
            return Err(StateError::Corrupt {
                reason: format!(
                    "{map} is gone, but {secret} holds the token of an earlier registration; restore the ConfigMap, set \
                     agent.id, or delete the Secret to begin as a new agent"
                ),
            });
        }
        Ok(Record::default())
    }

    fn agent_id(&self, stored: Option<AgentId>) -> AgentId {
        match (&self.configured, stored) {
            (Some(configured), Some(stored)) if *configured != stored => {
                tracing::warn!(%stored, %configured, "the configured agent id replaces the stored one");
                configured.clone()
            }
            (_, Some(stored)) => stored,
            (Some(configured), None) => configured.clone(),
            (None, None) => new_agent_id(),
        }
    }

    async fn map(&self) -> Result<Option<ConfigMap>, StateError> {
        Ok(self.storage.get(&self.map_name).await?)
    }

    async fn secret(&self) -> Result<Option<SecretObject>, StateError> {
        Ok(self.storage.get(&self.secret_name).await?)
    }

    fn record(&self, map: &ConfigMap) -> Result<Record, StateError> {
        let mut record =
            Record::read(map, self.configured.is_some()).map_err(|e| self.corrupt::<ConfigMap>(&self.map_name, &e))?;
        if let Config::Broken(reason) = &record.config {
            let place = self.storage.place::<ConfigMap>(&self.map_name);
            record.config = Config::Broken(format!("{place}: {reason}").into());
        }
        Ok(record)
    }

    fn corrupt<K: Object>(&self, name: &str, found: &Corrupt) -> StateError {
        StateError::Corrupt { reason: format!("{}: {found}", self.storage.place::<K>(name)) }
    }

    fn contended<K: Object>(&self, name: &str) -> StateError {
        let place = self.storage.place::<K>(name);
        StateError::Unavailable { reason: format!("{place} was changed by others {ATTEMPTS} times in a row") }
    }

    /// [`Store::bounded`], and what its end says of the storage and of what is in it.
    async fn judged<T>(&self, work: impl Future<Output = Result<T, StateError>>) -> Result<T, StateError> {
        let outcome = self.bounded(work).await;
        match &outcome {
            Ok(_) | Err(StateError::OtherCluster { .. } | StateError::Invalid { .. }) => {
                self.storage_condition.ready();
                self.state.ready();
            }
            Err(StateError::Corrupt { reason }) => {
                self.storage_condition.ready();
                self.state.not_ready(reason);
            }
            Err(StateError::Unavailable { reason }) => self.storage_condition.not_ready(reason),
        }
        outcome
    }

    async fn bounded<T>(&self, work: impl Future<Output = Result<T, StateError>>) -> Result<T, StateError> {
        tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| {
            let reason = format!("the storage of the state did not carry it out within {} s", DEADLINE.as_secs());
            Err(StateError::Unavailable { reason })
        })
    }

    /// What was read or written is what is known. That the ConfigMap is gone does not make an identity forgotten.
    fn remember(&self, record: Record) {
        let identity = record.identity();
        let mut known = self.known();
        if identity.is_some() || known.identity.is_none() {
            known.identity = identity;
            known.config = Some(record.config.clone());
        }
        drop(known);
        self.config.set(match record.config {
            Config::Broken(reason) => Err(reason.to_string()),
            Config::None | Config::Wish(_) => Ok(()),
        });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses to overwrite a cluster id that appeared since `before` was read.
fn check_owner(stored: Option<&ClusterId>, before: Option<&ClusterId>, new: &ClusterId) -> Result<(), StateError> {
    match stored {
        Some(stored) if stored != new && Some(stored) != before => {
            Err(StateError::OtherCluster { stored: stored.clone() })
        }
        _ => Ok(()),
    }
}

/// `agent-` and 16 hex digits. 64 random bits: one chance in 10^13 of a clash among a thousand agents.
fn new_agent_id() -> AgentId {
    let text = format!("agent-{:016x}", rand::random::<u64>());
    #[expect(clippy::expect_used, reason = "22 characters, all of them allowed in an id")]
    AgentId::new(text).expect("a made id is valid")
}

/// Lets whoever won the last write go ahead; the random part keeps two losers apart.
pub(crate) async fn pause(attempt: u32) {
    if attempt > 0 {
        tokio::time::sleep(BACKOFF.mul_f64(f64::from(attempt) * rand::random::<f64>())).await;
    }
}

#[cfg(test)]
mod tests;
