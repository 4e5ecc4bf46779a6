//! What state-keeper serves: who this agent is, what it has been given by the control plane, and who leads.

use std::time::Duration;

use jiff::Timestamp;
use protocol::{AgentId, ClusterConfig, ClusterId, Secret};
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
    /// What was asked for cannot be; nothing was changed.
    #[error("cannot be done: {reason}")]
    Invalid { reason: String },
}

/// A token that this agent was given over the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkToken {
    #[serde(with = "protocol::secret::wire")]
    pub token: Secret,
    pub expires_at: Timestamp,
}

/// Asks for the token to connect with. Only gateway-link may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetLinkToken {}

/// What is stored; none before the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLinkToken {
    pub token: Option<LinkToken>,
}

/// Stores the token to connect with. One that ends sooner than the stored one is not stored: several replicas get
/// tokens of their own, and the one that lasts longest is as good for all. None takes the stored one away, because it is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveLinkToken {
    pub token: Option<LinkToken>,
}

/// Nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// How often those ask who keep to what the control plane wishes.
pub const CONFIG_INTERVAL: Duration = Duration::from_secs(2);

/// Asks for what the control plane wishes of this cluster. Answered from memory, so that it may be asked often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetConfig {}

/// What was last pushed; none before the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredConfig {
    pub config: Option<ClusterConfig>,
}

/// Stores what the control plane wishes of this cluster, whatever its revision: it may have begun to count anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveConfig {
    pub config: ClusterConfig,
}

/// What one instance of several may do at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseName {
    /// The link to a control plane that takes one only.
    GatewayLink,
    RouteSyncer,
    ComponentsInstaller,
}

impl LeaseName {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GatewayLink => "gateway-link",
            Self::RouteSyncer => "route-syncer",
            Self::ComponentsInstaller => "components-installer",
        }
    }
}

/// Takes a lease, or keeps it: to be asked again well before `ttl_seconds` are over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquireLease {
    pub name: LeaseName,
    /// Whoever asks: one instance, such as a pod's name.
    pub holder: String,
    /// How long it is held without being asked for again, 1 to 3600.
    pub ttl_seconds: u32,
}

/// Gives a lease back, if `holder` has it, so that the next need not wait for its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseLease {
    pub name: LeaseName,
    pub holder: String,
}

/// Who holds a lease now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    /// Whether it is whoever asked.
    pub held: bool,
    pub holder: String,
}

macro_rules! state_requests {
    ($($request:ty => $reply:ty, $subject:literal;)*) => {$(
        impl Request for $request {
            type Error = StateError;
            type Reply = $reply;

            const SERVED_BY: Service = Service::StateKeeper;
            const SUBJECT: &'static str = $subject;
        }
    )*};
}

state_requests! {
    GetIdentity => Identity, "pipeops.state.identity.get";
    SaveRegistration => Identity, "pipeops.state.registration.save";
    GetLinkToken => StoredLinkToken, "pipeops.state.token.get";
    SaveLinkToken => Done, "pipeops.state.token.save";
    GetConfig => StoredConfig, "pipeops.state.config.get";
    SaveConfig => Done, "pipeops.state.config.save";
    AcquireLease => LeaseState, "pipeops.state.lease.acquire";
    ReleaseLease => Done, "pipeops.state.lease.release";
}
