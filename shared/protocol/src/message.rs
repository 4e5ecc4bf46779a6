//! The control messages, by direction. Field names are those of the published agent protocol.
//!
//! Reading is lenient where the existing implementations differ (unknown fields, absent optional fields), strict where
//! identity is concerned.

mod agent;
mod control;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use agent::{
    AgentMessage, Features, GatewayHelloAck, Heartbeat, HeartbeatMetadata, Pong, ProtocolFallback, Register,
    RegisterMetadata, ServerSpecs, TunnelPortConfig,
};
pub use control::{ControlMessage, ErrorReport, GatewayHello, RegisterSuccess, RegistrationError, YamuxConfig};

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
