//! Messages from the control plane to the agent.

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::proxied::ProxyCommand;
use super::{GoAway, Pong, TokenRefresh};
use crate::config::ClusterConfig;
use crate::envelope::{Empty, Envelope, ParseError, RequestId, encode};
use crate::id::{ClusterId, InvalidId};
use crate::mask::mask_json;
use crate::secret::{Secret, wire_option};

/// What a control plane says.
#[derive(Clone, Debug, PartialEq)]
pub enum ControlMessage {
    RegisterSuccess(Box<RegisterSuccess>),
    RegisterInProgress,
    HeartbeatAck,
    Ping,
    Pong(Pong),
    GatewayHello(GatewayHello),
    Error(ErrorReport),
    GoAway(GoAway),
    TokenRefresh(TokenRefresh),
    ConfigPush(Box<ClusterConfig>),
    Proxy(ProxyCommand),
    /// A type this crate does not know; to be counted, not to be failed on.
    Unknown {
        kind: String,
    },
}

/// `register_success`. Everything but the cluster's id is optional; see [`RegisterSuccess::cluster_id`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RegisterSuccess {
    /// The id as found, unchecked. Of a received message: the first of the five places that holds one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// What the gateway's URL is to name, where it differs from the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_uuid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_server: Option<String>,
    /// A token for the cluster, to be kept in a Secret.
    #[serde(skip_serializing_if = "Option::is_none", with = "wire_option")]
    pub token: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<Number>,
    /// Where to open the gateway WebSocket; absent: the controller WebSocket is the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_ws_url: Option<String>,
    /// See [`crate::capability`]; empty from a control plane of another make.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// The response as received, secrets masked; for error reports. Empty in a message made here.
    #[serde(skip)]
    pub response: String,
}

/// Why a `register_success` does not register anything. The agent must not go on without an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    #[error("no cluster UUID found in registration response: {response}")]
    MissingClusterId {
        /// What the control plane sent, secrets masked.
        response: String,
    },
    #[error("the cluster id in the registration response is not valid: {response}")]
    InvalidClusterId {
        response: String,
        #[source]
        source: InvalidId,
    },
}

/// `gateway_hello`: the control plane wants to open yamux streams.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GatewayHello {
    #[serde(default)]
    pub use_yamux: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yamux_config: Option<YamuxConfig>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// Settings of the yamux session that the control plane asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct YamuxConfig {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_stream_window_size: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive_interval_seconds: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_timeout_seconds: Option<Number>,
}

/// `error`: a request, or the link itself, was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// For people.
    #[serde(default)]
    pub error: String,
    /// For programs, from a control plane of ours: such as `invalid_payload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl ErrorReport {
    /// An error with only a text.
    pub fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), code: None }
    }

    /// Whether the control plane does not know this cluster (any more): the agent has to register anew.
    pub fn asks_for_registration(&self) -> bool {
        let error = self.error.to_lowercase();
        error.contains("not registered") || error.contains("cluster not found")
    }
}

impl RegisterSuccess {
    /// A registration under `cluster_id`.
    pub fn new(cluster_id: &ClusterId) -> Self {
        Self {
            cluster_id: Some(cluster_id.as_str().into()),
            cluster_uuid: Some(cluster_id.as_str().into()),
            status: Some("active".into()),
            ..Self::default()
        }
    }

    /// The id under which the cluster is registered.
    ///
    /// It is accepted in `cluster_id`, `cluster_uuid`, `cluster.uuid`, `cluster.id` and `data.cluster_id`, in this order,
    /// of the payload and then of the message itself. Nothing else stands in for it.
    ///
    /// # Errors
    /// When none of these is a non-empty string, or the first that is one is not a valid id.
    pub fn cluster_id(&self) -> Result<ClusterId, RegistrationError> {
        self.checked(self.cluster_id.as_deref())
    }

    /// What to name the cluster in the gateway's URL: the UUID where one is given, the id otherwise.
    ///
    /// # Errors
    /// As [`RegisterSuccess::cluster_id`].
    pub fn gateway_cluster(&self) -> Result<ClusterId, RegistrationError> {
        self.checked(self.cluster_uuid.as_deref().or(self.cluster_id.as_deref()))
    }

    fn checked(&self, id: Option<&str>) -> Result<ClusterId, RegistrationError> {
        let id = id.ok_or_else(|| RegistrationError::MissingClusterId { response: self.response.clone() })?;
        ClusterId::new(id)
            .map_err(|source| RegistrationError::InvalidClusterId { response: self.response.clone(), source })
    }

    /// Reads a whole message leniently: a field of the wrong type counts as absent.
    fn from_message(text: &str) -> Result<Self, serde_json::Error> {
        let message: Value = serde_json::from_str(text)?;
        let null = Value::Null;
        let payload = message.get("payload").unwrap_or(&null);
        let string = |name: &str| text_at(payload, &[name]);
        Ok(Self {
            cluster_id: PLACES
                .iter()
                .find_map(|at| text_at(payload, at))
                .or_else(|| PLACES.iter().find_map(|at| text_at(&message, at))),
            cluster_uuid: UUID_PLACES.iter().find_map(|at| text_at(payload, at)),
            name: string("name"),
            status: string("status"),
            tunnel_url: string("tunnel_url"),
            api_server: string("api_server"),
            token: string("token").map(Secret::new),
            workspace_id: payload.get("workspace_id").and_then(Value::as_number).cloned(),
            gateway_ws_url: string("gateway_ws_url"),
            capabilities: payload
                .get("capabilities")
                .and_then(Value::as_array)
                .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                .unwrap_or_default(),
            response: mask_json(text),
        })
    }
}

/// Where control planes are known to put the cluster's id, preferred first.
const PLACES: [&[&str]; 5] =
    [&["cluster_id"], &["cluster_uuid"], &["cluster", "uuid"], &["cluster", "id"], &["data", "cluster_id"]];

const UUID_PLACES: [&[&str]; 2] = [&["cluster_uuid"], &["cluster", "uuid"]];

/// The non-empty string at `path` of `value`.
fn text_at(value: &Value, path: &[&str]) -> Option<String> {
    let found = path.iter().try_fold(value, |value, name| value.get(name))?;
    found.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

impl ControlMessage {
    /// The `type` of the envelope.
    pub fn kind(&self) -> &str {
        match self {
            Self::RegisterSuccess(_) => "register_success",
            Self::RegisterInProgress => "register_in_progress",
            Self::HeartbeatAck => "heartbeat_ack",
            Self::Ping => "ping",
            Self::Pong(_) => "pong",
            Self::GatewayHello(_) => "gateway_hello",
            Self::Error(_) => "error",
            Self::GoAway(_) => "go_away",
            Self::TokenRefresh(_) => "token_refresh",
            Self::ConfigPush(_) => "config_push",
            Self::Proxy(command) => command.kind(),
            Self::Unknown { kind } => kind,
        }
    }

    /// Reads one text frame.
    ///
    /// # Errors
    /// When it is not an envelope, or a known type lacks what it must have. An unknown type is not an error, nor is a
    /// `register_success` without an id: that shows in [`RegisterSuccess::cluster_id`].
    pub fn parse(text: &str) -> Result<(Option<RequestId>, Self), ParseError> {
        let envelope = Envelope::parse(text)?;
        let message = match &*envelope.kind {
            "register_success" => {
                let kind = "register_success";
                let success =
                    RegisterSuccess::from_message(text).map_err(|source| ParseError::Payload { kind, source })?;
                Self::RegisterSuccess(Box::new(success))
            }
            "register_in_progress" => Self::RegisterInProgress,
            "heartbeat_ack" => Self::HeartbeatAck,
            "ping" => Self::Ping,
            "pong" => Self::Pong(envelope.payload("pong")?),
            "gateway_hello" => Self::GatewayHello(envelope.payload("gateway_hello")?),
            "error" => Self::Error(envelope.payload("error")?),
            "go_away" => Self::GoAway(envelope.payload("go_away")?),
            "token_refresh" => Self::TokenRefresh(envelope.payload("token_refresh")?),
            "config_push" => Self::ConfigPush(envelope.payload("config_push")?),
            kind => match ProxyCommand::read(&envelope)? {
                Some(command) => Self::Proxy(command),
                None => Self::Unknown { kind: kind.to_owned() },
            },
        };
        Ok((envelope.request_id(), message))
    }

    /// The text frame of this message, made now.
    pub fn encode(&self, request_id: Option<&str>) -> String {
        let kind = self.kind();
        match self {
            Self::RegisterSuccess(payload) => encode(kind, request_id, payload),
            Self::Pong(payload) => encode(kind, request_id, payload),
            Self::GatewayHello(payload) => encode(kind, request_id, payload),
            Self::Error(payload) => encode(kind, request_id, payload),
            Self::GoAway(payload) => encode(kind, request_id, payload),
            Self::TokenRefresh(payload) => encode(kind, request_id, payload),
            Self::ConfigPush(payload) => encode(kind, request_id, payload),
            Self::Proxy(command) => command.encode(request_id),
            Self::RegisterInProgress | Self::HeartbeatAck | Self::Ping | Self::Unknown { .. } => {
                encode(kind, request_id, &Empty {})
            }
        }
    }
}
