//! What is stored, and how it lies in the two objects.

use std::collections::BTreeMap;

use bus::state::Identity;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret as SecretObject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use protocol::{AgentId, ClusterId, InvalidId, Secret};

const AGENT_ID: &str = "agent_id";
const CLUSTER_ID: &str = "cluster_id";
const GATEWAY_WS_URL: &str = "gateway_ws_url";
const CLUSTER_TOKEN: &str = "cluster_token";

/// The ConfigMap's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub agent_id: Option<AgentId>,
    pub cluster_id: Option<ClusterId>,
    pub gateway_ws_url: Option<String>,
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
        Ok(Self { agent_id, cluster_id, gateway_ws_url: text(GATEWAY_WS_URL).cloned() })
    }

    /// Writes into the ConfigMap, leaving alone whatever else is in it. True when that changed it.
    pub fn write(&self, map: &mut ConfigMap) -> bool {
        let values = [
            (AGENT_ID, self.agent_id.as_ref().map(AgentId::as_str)),
            (CLUSTER_ID, self.cluster_id.as_ref().map(ClusterId::as_str)),
            (GATEWAY_WS_URL, self.gateway_ws_url.as_deref()),
        ];
        let mut changed = false;
        let data = map.data.get_or_insert_default();
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
        changed
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

impl From<Identity> for Record {
    fn from(identity: Identity) -> Self {
        let Identity { agent_id, cluster_id, gateway_ws_url } = identity;
        Self { agent_id: Some(agent_id), cluster_id, gateway_ws_url }
    }
}

/// The cluster's token in the Secret. An empty value is the same as none.
pub(crate) fn read_token(secret: &SecretObject) -> Result<Option<Secret>, Corrupt> {
    let Some(ByteString(bytes)) = secret.data.as_ref().and_then(|data| data.get(CLUSTER_TOKEN)) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(bytes).map_err(|_| Corrupt::NotText { key: CLUSTER_TOKEN })?;
    Ok((!text.is_empty()).then(|| Secret::new(text)))
}

/// Puts the token into the Secret, or takes it out, leaving alone whatever else is in it.
pub(crate) fn write_token(secret: &mut SecretObject, token: Option<&Secret>) {
    let data = secret.data.get_or_insert_default();
    match token {
        Some(token) => {
            data.insert(CLUSTER_TOKEN.to_owned(), ByteString(token.expose().as_bytes().to_vec()));
        }
        None => {
            data.remove(CLUSTER_TOKEN);
        }
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

/// The labels of the existing agent.
fn metadata(name: &str, component: &str) -> ObjectMeta {
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
