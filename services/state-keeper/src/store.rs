//! The state itself: read through, written by compare-and-swap, remembered for when the API server is away.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::state::{Identity, SaveRegistration, StateError};
use k8s_openapi::api::core::v1::{ConfigMap, Secret as SecretObject};
use protocol::{AgentId, ClusterId, Secret};
use runtime::{Condition, Health};

use crate::objects::{ApiError, Objects};
use crate::record::{self, Corrupt, Record};

/// Attempts of one write; each but the first follows a write of somebody else.
const ATTEMPTS: u32 = 8;

/// Longest wait before the second attempt; each further one waits that much longer.
const BACKOFF: Duration = Duration::from_millis(20);

/// A whole operation: below the 5 s after which whoever asked on the bus no longer waits.
const DEADLINE: Duration = Duration::from_secs(4);

/// The agent's identity and where it is kept.
#[derive(Debug)]
pub(crate) struct Store {
    objects: Objects,
    map_name: String,
    secret_name: String,
    /// The agent id that the configuration demands.
    configured: Option<AgentId>,
    /// What was last known to be stored.
    memory: Mutex<Option<Identity>>,
    /// Writers of this process wait for each other instead of losing against each other.
    writing: tokio::sync::Mutex<()>,
    kubernetes: Condition,
    state: Condition,
}

impl Store {
    pub fn new(objects: Objects, names: &crate::State, configured: Option<AgentId>, health: &Health) -> Self {
        Self {
            objects,
            map_name: names.configmap_name.clone(),
            secret_name: names.secret_name.clone(),
            configured,
            memory: Mutex::new(None),
            writing: tokio::sync::Mutex::new(()),
            kubernetes: health.condition("kubernetes"),
            state: health.condition("state"),
        }
    }

    /// Who this agent is; the first call ever makes the agent id. While the API server is away it is what was last
    /// known, if anything was.
    pub async fn identity(&self) -> Result<Identity, StateError> {
        match self.bounded(self.edit(|_| Ok(()))).await {
            Err(StateError::Unavailable { reason }) => {
                let known = self.known().clone();
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
        self.bounded(self.save_both(registration)).await
    }

    /// Reads the state without changing anything, to see that it can be read.
    pub async fn check(&self) -> Result<(), StateError> {
        self.bounded(async {
            let stored = self.map().await?;
            if let Some(record) = stored.map(|map| self.record(&map)).transpose()? {
                self.remember(record.identity());
            }
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
            self.save_token(cluster_token.as_ref().filter(|token| !token.is_empty())).await?;
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
            let changed = record.write(&mut map);
            if changed || map.metadata.resource_version.is_none() {
                match self.objects.save(&map).await {
                    Ok(_) => tracing::info!(agent_id = ?record.agent_id, cluster_id = ?record.cluster_id, "stored"),
                    Err(ApiError::Conflict) => continue,
                    Err(ApiError::Unavailable(reason)) => return Err(StateError::Unavailable { reason }),
                }
            }
            if let Some(identity) = record.identity() {
                self.remember(Some(identity.clone()));
                return Ok(identity);
            }
        }
        Err(self.contended(&self.map_name))
    }

    async fn save_token(&self, token: Option<&Secret>) -> Result<(), StateError> {
        let _writing = self.writing.lock().await;
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let stored = self.secret().await?;
            let current = stored.as_ref().map(record::read_token).transpose();
            let current = current.map_err(|e| self.corrupt("Secret", &self.secret_name, &e))?.flatten();
            if current.as_ref() == token {
                return Ok(());
            }
            let mut secret = stored.unwrap_or_else(|| record::new_secret(&self.secret_name));
            record::write_token(&mut secret, token);
            match self.objects.save(&secret).await {
                Ok(_) => return Ok(()),
                Err(ApiError::Conflict) => {}
                Err(ApiError::Unavailable(reason)) => return Err(StateError::Unavailable { reason }),
            }
        }
        Err(self.contended(&self.secret_name))
    }

    /// The content to begin with when there is no ConfigMap: that of memory; else a new one, unless a token says that
    /// this agent was registered before: then a new id would be a second identity by accident.
    async fn lost(&self) -> Result<Record, StateError> {
        if let Some(known) = self.known().clone() {
            tracing::warn!(config_map = self.map_name, "the stored identity is gone, restoring it from memory");
            return Ok(known.into());
        }
        let secret = self.secret().await?;
        let registered = secret.is_some_and(|secret| !matches!(record::read_token(&secret), Ok(None)));
        if registered && self.configured.is_none() {
            let namespace = self.objects.namespace();
            let (map, secret) = (&self.map_name, &self.secret_name);
            return Err(StateError::Corrupt {
                reason: format!(
                    "ConfigMap {namespace}/{map} is gone, but Secret {namespace}/{secret} holds the token of an earlier \
                     registration; restore the ConfigMap, set agent.id, or delete the Secret to begin as a new agent"
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
        self.objects.get(&self.map_name).await.map_err(unavailable)
    }

    async fn secret(&self) -> Result<Option<SecretObject>, StateError> {
        self.objects.get(&self.secret_name).await.map_err(unavailable)
    }

    fn record(&self, map: &ConfigMap) -> Result<Record, StateError> {
        Record::read(map, self.configured.is_some()).map_err(|e| self.corrupt("ConfigMap", &self.map_name, &e))
    }

    fn corrupt(&self, kind: &str, name: &str, found: &Corrupt) -> StateError {
        StateError::Corrupt { reason: format!("{kind} {}/{name}: {found}", self.objects.namespace()) }
    }

    fn contended(&self, name: &str) -> StateError {
        let namespace = self.objects.namespace();
        StateError::Unavailable {
            reason: format!("{namespace}/{name} was changed by others {ATTEMPTS} times in a row"),
        }
    }

    async fn bounded<T>(&self, work: impl Future<Output = Result<T, StateError>>) -> Result<T, StateError> {
        let outcome = tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| {
            let reason = format!("the API server did not carry it out within {} s", DEADLINE.as_secs());
            Err(StateError::Unavailable { reason })
        });
        match &outcome {
            Ok(_) | Err(StateError::OtherCluster { .. }) => {
                self.kubernetes.ready();
                self.state.ready();
            }
            Err(StateError::Corrupt { reason }) => {
                self.kubernetes.ready();
                self.state.not_ready(reason);
            }
            Err(StateError::Unavailable { reason }) => self.kubernetes.not_ready(reason),
        }
        outcome
    }

    fn remember(&self, identity: Option<Identity>) {
        if identity.is_some() {
            *self.known() = identity;
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<Identity>> {
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

fn unavailable(error: ApiError) -> StateError {
    StateError::Unavailable { reason: error.to_string() }
}

/// `agent-` and 16 hex digits. 64 random bits: one chance in 10^13 of a clash among a thousand agents.
fn new_agent_id() -> AgentId {
    let text = format!("agent-{:016x}", rand::random::<u64>());
    #[expect(clippy::expect_used, reason = "22 characters, all of them allowed in an id")]
    AgentId::new(text).expect("a made id is valid")
}

/// Lets whoever won the last write go ahead; the random part keeps two losers apart.
async fn pause(attempt: u32) {
    if attempt > 0 {
        tokio::time::sleep(BACKOFF.mul_f64(f64::from(attempt) * rand::random::<f64>())).await;
    }
}

#[cfg(test)]
mod tests;
