//! What state-keeper serves: who this agent is.

use protocol::{AgentId, ClusterId, Secret};
use serde::{Deserialize, Serialize};

use crate::{Request, Service};

/// Asks who this agent is. The first call ever creates the agent id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetIdentity {}

/// Stores what the control plane answered to a registration. `cluster_token` is kept in the Secret and never returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveRegistration {
    pub cluster_id: ClusterId,
    pub gateway_ws_url: Option<String>,
    /// In the clear on the bus, where only state-keeper may subscribe to this subject.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "protocol::secret::wire_option")]
    pub cluster_token: Option<Secret>,
}

/// The stored identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub agent_id: AgentId,
    /// None until the first registration.
    pub cluster_id: Option<ClusterId>,
    /// Where the control plane told us to connect next, if it did.
    pub gateway_ws_url: Option<String>,
}

/// Why state-keeper could not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StateError {
    /// The Kubernetes API could not be used just now; try again.
    #[error("state storage is unavailable: {reason}")]
    Unavailable { reason: String },
    /// What is stored cannot be read; it was kept as it is.
    #[error("stored state is corrupt: {reason}")]
    Corrupt { reason: String },
    /// Another cluster id is stored already.
    #[error("this agent is registered as cluster {stored}")]
    OtherCluster { stored: ClusterId },
}

impl Request for GetIdentity {
    type Error = StateError;
    type Reply = Identity;

    const SERVED_BY: Service = Service::StateKeeper;
    const SUBJECT: &'static str = "pipeops.state.identity.get";
}

impl Request for SaveRegistration {
    type Error = StateError;
    type Reply = Identity;

    const SERVED_BY: Service = Service::StateKeeper;
    const SUBJECT: &'static str = "pipeops.state.registration.save";
}
