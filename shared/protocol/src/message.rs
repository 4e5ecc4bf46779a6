//! The control messages, by direction. Field names are those of the published agent protocol.
//!
//! Reading is lenient where the existing implementations differ (unknown fields, absent optional fields), strict where
//! identity is concerned.

mod agent;
mod control;
pub mod proxied;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use agent::{
    AgentMessage, ComponentState, Features, GatewayHelloAck, Heartbeat, HeartbeatMetadata, Pong, ProtocolFallback,
    Register, RegisterMetadata, ServerSpecs, TunnelPortConfig,
};
pub use control::{ControlMessage, ErrorReport, GatewayHello, RegisterSuccess, RegistrationError, YamuxConfig};

use crate::secret::Secret;

/// `token_refresh`, from the control plane: what the agent is to show from its next connection on. Kept in the Secret
/// before it is acknowledged by `token_refresh_ack`; the token before may then not be good any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRefresh {
    #[serde(with = "crate::secret::wire")]
    pub token: Secret,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Either side: no new streams, please; those that are open may finish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoAway {
    /// For people.
    #[serde(default)]
    pub reason: String,
    /// How long open streams may go on, in milliseconds; absent: the sender's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u64>,
}
