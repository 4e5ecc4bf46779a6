//! Messages from the agent to the control plane.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::GoAway;
use super::proxied::ProxyReply;
use crate::config::ConfigAck;
use crate::envelope::{Envelope, ParseError, RequestId, encode};
use crate::id::{AgentId, ClusterId};
use crate::secret::{Secret, wire_option};

/// What an agent says.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentMessage {
    Register(Box<Register>),
    Heartbeat(Box<Heartbeat>),
    GatewayHelloAck(GatewayHelloAck),
    Pong(Pong),
    ProtocolFallback(ProtocolFallback),
    GoAway(GoAway),
    /// The token of the last `token_refresh` is stored.
    TokenRefreshAck,
    ConfigAck(ConfigAck),
    Proxy(ProxyReply),
    /// A type this crate does not know; to be counted, not to be failed on.
    Unknown {
        kind: String,
    },
}

/// `register`: who the agent is, and about the machine it runs on. Only `agent_id` is required.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Register {
    pub agent_id: AgentId,
    /// The cluster's name, for people.
    #[serde(default)]
    pub name: String,
    /// Set when the agent was registered before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<ClusterId>,
    #[serde(default)]
    pub k8s_version: String,
    #[serde(default)]
    pub hostname: String,
    #[serde(default)]
    pub agent_version: String,
    #[serde(default)]
    pub server_ip: String,
    #[serde(default)]
    pub region: String,
    #[serde(default)]
    pub cloud_provider: String,
    #[serde(default)]
    pub tunnel_port_config: TunnelPortConfig,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub server_specs: ServerSpecs,
    #[serde(default)]
    pub features: Features,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<RegisterMetadata>,
    /// The agent's own ServiceAccount token. Sent by the existing agent; ours has no reason to.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "wire_option")]
    pub k8s_service_token: Option<Secret>,
    /// See [`crate::capability`]; empty from an agent of another make.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// Ports of the cluster's own servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelPortConfig {
    pub kubernetes_api: u16,
    pub kubelet: u16,
    pub agent_http: u16,
}

impl Default for TunnelPortConfig {
    fn default() -> Self {
        Self { kubernetes_api: 6443, kubelet: 10250, agent_http: 8080 }
    }
}

/// The machine. Numbers are kept as sent: whole ones from the existing agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerSpecs {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_cores: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_gb: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_gb: Option<Number>,
    pub os: String,
}

/// What the agent can do in the terms of the published protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Features {
    pub supports_streaming: bool,
    pub supports_binary_protocol: bool,
    pub supports_compression: bool,
    pub supports_websocket_proxy: bool,
    pub supports_gateway: bool,
    pub supports_response_streaming: bool,
}

/// How and where the registration came about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegisterMetadata {
    pub agent_mode: String,
    pub registration_timestamp: String,
    /// `fresh` or `resume`.
    pub registration_mode: String,
    /// Where the agent believes it is (`country_code`, `network_asn`, …), as sent.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `heartbeat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub cluster_id: ClusterId,
    pub agent_id: AgentId,
    /// `healthy`, `reconnecting` or `disconnected`.
    #[serde(default)]
    pub status: String,
    /// `connected` or `disconnected`.
    #[serde(default)]
    pub tunnel_status: String,
    #[serde(default)]
    pub metadata: HeartbeatMetadata,
    /// Addresses and credentials of the monitoring stack and of joining a worker, as sent. Never to be logged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the cluster looks like now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeartbeatMetadata {
    pub agent_version: String,
    pub k8s_version: String,
    /// None: not known, and not sent. The published protocol has a number, which whoever knows it reads as 0 when it is not
    /// there; a 0 that is sent would say that there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_nodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_pods: Option<u64>,
    pub cpu_usage: String,
    pub memory_usage: String,
    pub is_private: bool,
    pub gateway_routes: u64,
    /// How long ago the cluster was seen as it is said here; absent: not yet, or unsaid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_age_seconds: Option<u64>,
    /// Of the process that sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
    /// Of the link: `connecting`, `connected`, `reconnecting` or `disconnected`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway_state: String,
    /// The agent's services, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, ComponentState>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One of the agent's services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComponentState {
    /// `ready`, `not_ready`, or `unknown`: it does not answer.
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
    /// Why it is not ready, or does not answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How long ago it said so.
    pub age_seconds: u64,
}

/// `gateway_hello_ack`: binary frames are yamux from here on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayHelloAck {
    #[serde(default)]
    pub use_yamux: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// `pong`, with the request id of its `ping`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// When it was made, RFC 3339.
    #[serde(default)]
    pub timestamp: String,
}

/// `protocol_fallback`: the agent got a message of a type it does not know (sent once per type).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProtocolFallback {
    pub agent_version: String,
    pub unknown_type: String,
    pub supported_types: Vec<String>,
    pub fallback_mode: String,
    pub protocol_version: String,
    pub timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_request_id: Option<String>,
}

impl Register {
    /// A registration of `agent_id` for the cluster called `name`, everything else unsaid.
    pub fn new(agent_id: AgentId, name: impl Into<String>) -> Self {
        Self {
            agent_id,
            name: name.into(),
            cluster_id: None,
            k8s_version: String::new(),
            hostname: String::new(),
            agent_version: String::new(),
            server_ip: String::new(),
            region: String::new(),
            cloud_provider: String::new(),
            tunnel_port_config: TunnelPortConfig::default(),
            labels: BTreeMap::new(),
            server_specs: ServerSpecs::default(),
            features: Features::default(),
            metadata: None,
            k8s_service_token: None,
            capabilities: Vec::new(),
        }
    }
}

impl Heartbeat {
    /// A heartbeat of a healthy agent with its link up.
    pub fn healthy(cluster_id: ClusterId, agent_id: AgentId, metadata: HeartbeatMetadata) -> Self {
        Self {
            cluster_id,
            agent_id,
            status: "healthy".into(),
            tunnel_status: "connected".into(),
            metadata,
            extra: Map::new(),
        }
    }
}

impl Pong {
    /// A pong of this moment.
    pub fn now() -> Self {
        Self { timestamp: Timestamp::now().to_string() }
    }
}

impl AgentMessage {
    /// The `type` of the envelope.
    pub fn kind(&self) -> &str {
        match self {
            Self::Register(_) => "register",
            Self::Heartbeat(_) => "heartbeat",
            Self::GatewayHelloAck(_) => "gateway_hello_ack",
            Self::Pong(_) => "pong",
            Self::ProtocolFallback(_) => "protocol_fallback",
            Self::GoAway(_) => "go_away",
            Self::TokenRefreshAck => "token_refresh_ack",
            Self::ConfigAck(_) => "config_ack",
            Self::Proxy(reply) => reply.kind(),
            Self::Unknown { kind } => kind,
        }
    }

    /// Reads one text frame.
    ///
    /// # Errors
    /// When it is not an envelope, or a known type lacks what it must have. An unknown type is not an error.
    pub fn parse(text: &str) -> Result<(Option<RequestId>, Self), ParseError> {
        let envelope = Envelope::parse(text)?;
        let message = match &*envelope.kind {
            "register" => Self::Register(envelope.payload("register")?),
            "heartbeat" => Self::Heartbeat(envelope.payload("heartbeat")?),
            "gateway_hello_ack" => Self::GatewayHelloAck(envelope.payload("gateway_hello_ack")?),
            "pong" => Self::Pong(envelope.payload("pong")?),
            "protocol_fallback" => Self::ProtocolFallback(envelope.payload("protocol_fallback")?),
            "go_away" => Self::GoAway(envelope.payload("go_away")?),
            "token_refresh_ack" => Self::TokenRefreshAck,
            "config_ack" => Self::ConfigAck(envelope.payload("config_ack")?),
            kind => match ProxyReply::read(&envelope)? {
                Some(reply) => Self::Proxy(reply),
                None => Self::Unknown { kind: kind.to_owned() },
            },
        };
        Ok((envelope.request_id(), message))
    }

    /// The text frame of this message, made now.
    pub fn encode(&self, request_id: Option<&str>) -> String {
        let kind = self.kind();
        match self {
            Self::Register(payload) => encode(kind, request_id, payload),
            Self::Heartbeat(payload) => encode(kind, request_id, payload),
            Self::GatewayHelloAck(payload) => encode(kind, request_id, payload),
            Self::Pong(payload) => encode(kind, request_id, payload),
            Self::ProtocolFallback(payload) => encode(kind, request_id, payload),
            Self::GoAway(payload) => encode(kind, request_id, payload),
            Self::ConfigAck(payload) => encode(kind, request_id, payload),
            Self::Proxy(reply) => reply.encode(request_id),
            Self::TokenRefreshAck | Self::Unknown { .. } => encode(kind, request_id, &crate::envelope::Empty {}),
        }
    }
}
