//! What is stored, and how it lies in the two objects.

mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::state::Identity;
use k8s_openapi::api::core::v1::{ConfigMap, Secret as SecretObject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use protocol::{AgentId, ClusterConfig, ClusterId, InvalidId};

pub(crate) use tokens::{read_link_token, read_token, tokens_say_registered, write_link_token, write_token};

const AGENT_ID: &str = "agent_id";
const CLUSTER_ID: &str = "cluster_id";
const GATEWAY_WS_URL: &str = "gateway_ws_url";
const CLUSTER_CONFIG: &str = "cluster_config";
/// Where a `cluster_config` that could not be read goes when a readable one takes its place.
const BROKEN_CONFIG: &str = "cluster_config.corrupt";

/// The ConfigMap's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub agent_id: Option<AgentId>,
    pub cluster_id: Option<ClusterId>,
    pub gateway_ws_url: Option<String>,
    pub config: Config,
}

/// What the control plane wishes of the cluster, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Config {
    #[default]
    None,
    Wish(Arc<ClusterConfig>),
    /// It cannot be read, for this reason, and stays as it is. Who this agent is does not depend on it.
    Broken(Arc<str>),
}

/// Content that is not ours to interpret; it stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Corrupt {
    #[error("its {key} {source}")]
    Id { key: &'static str, source: InvalidId },
    #[error("it has a cluster_id but no agent_id; restore the agent_id, or set agent.id to it")]
    NoAgentId,
    #[error("its {key} is not text")]
    NotText { key: &'static str },
    #[error("its {key} is no time such as 2026-01-31T12:00:00Z")]
    NotATime { key: &'static str },
    #[error("it has a link_token but no link_token_expires_at")]
    NoExpiry,
}

impl Record {
    /// Reads the ConfigMap. An empty value is the same as none.
    ///
    /// `agent_known` says that the agent's id comes from elsewhere: then it need not be stored.
    pub fn read(map: &ConfigMap, agent_known: bool) -> Result<Self, Corrupt> {
        let text = |key| map.data.as_ref().and_then(|data| data.get(key)).filter(|value| !value.is_empty());
        let agent_id = text(AGENT_ID)
            .map(|value| value.parse())
            .transpose()
            .map_err(|source| Corrupt::Id { key: AGENT_ID, source })?;
        let cluster_id = text(CLUSTER_ID)
            .map(|value| value.parse())
            .transpose()
            .map_err(|source| Corrupt::Id { key: CLUSTER_ID, source })?;
        if agent_id.is_none() && cluster_id.is_some() && !agent_known {
            return Err(Corrupt::NoAgentId);
        }
        let config = text(CLUSTER_CONFIG).map_or(Config::None, |text| Config::read(text));
        Ok(Self { agent_id, cluster_id, gateway_ws_url: text(GATEWAY_WS_URL).cloned(), config })
    }

    /// Writes into the ConfigMap, leaving alone whatever else is in it. True when that changed it.
    ///
    /// # Errors
    /// When the configuration cannot be written as JSON.
    pub fn write(&self, map: &mut ConfigMap) -> Result<bool, serde_json::Error> {
        let values = [
            (AGENT_ID, self.agent_id.as_ref().map(AgentId::as_str)),
            (CLUSTER_ID, self.cluster_id.as_ref().map(ClusterId::as_str)),
            (GATEWAY_WS_URL, self.gateway_ws_url.as_deref()),
        ];
        let data = map.data.get_or_insert_default();
        let mut changed = self.config.write(data)?;
        for (key, value) in values {
            let value = value.unwrap_or_default();
            if data.get(key).map_or("", String::as_str) == value {
                continue;
            }
            changed = true;
            if value.is_empty() {
                data.remove(key);
            } else {
                data.insert(key.to_owned(), value.to_owned());
            }
        }
        Ok(changed)
    }

    /// The identity, once there is an agent id.
    pub fn identity(&self) -> Option<Identity> {
        Some(Identity {
            agent_id: self.agent_id.clone()?,
            cluster_id: self.cluster_id.clone(),
            gateway_ws_url: self.gateway_ws_url.clone(),
        })
    }
}

impl Config {
    fn read(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(config) => Self::Wish(Arc::new(config)),
            Err(error) => Self::Broken(format!("its {CLUSTER_CONFIG} is no configuration ({error})").into()),
        }
    }

    /// True when that changed something. What is stored otherwise and means the same is left alone, and so are a broken
    /// one and one that is not to be replaced.
    fn write(&self, data: &mut BTreeMap<String, String>) -> Result<bool, serde_json::Error> {
        let Self::Wish(wish) = self else { return Ok(false) };
        if let Some(stored) = data.get(CLUSTER_CONFIG).filter(|text| !text.is_empty()) {
            match Self::read(stored) {
                Self::Wish(stored) if stored == *wish => return Ok(false),
                Self::Broken(_) => drop(data.insert(BROKEN_CONFIG.to_owned(), stored.clone())),
                _ => {}
            }
        }
        data.insert(CLUSTER_CONFIG.to_owned(), serde_json::to_string(wish.as_ref())?);
        Ok(true)
    }
}

/// A ConfigMap to be created.
pub(crate) fn new_map(name: &str) -> ConfigMap {
    ConfigMap { metadata: metadata(name, "state"), ..ConfigMap::default() }
}

/// A Secret to be created.
pub(crate) fn new_secret(name: &str) -> SecretObject {
    SecretObject { metadata: metadata(name, "secrets"), type_: Some("Opaque".into()), ..SecretObject::default() }
}

/// A name of our own, labelled like the objects of the existing agent.
pub(crate) fn metadata(name: &str, component: &str) -> ObjectMeta {
    let labels = [
        ("app.kubernetes.io/name", "pipeops-agent"),
        ("app.kubernetes.io/component", component),
        ("app.kubernetes.io/managed-by", "pipeops-agent"),
    ];
    let labels: BTreeMap<_, _> = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() }
}

#[cfg(test)]
mod tests;
