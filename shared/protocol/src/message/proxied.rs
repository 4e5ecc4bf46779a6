//! What the published protocol carries as messages: HTTP requests, WebSockets, TCP and UDP. A peer that says `streams/2`
//! gets streams instead.
//!
//! The envelope's request id names the exchange; the messages of one exchange come in order. There is no flow control:
//! whoever receives has to bound what waits, and to end an exchange that does not keep up rather than drop a part of it.

mod agent;
mod control;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer, Serialize, de};

pub use agent::{Abort, Backpressure, Encoding, ProxyReply, ResponseChunk, ResponseHead, WholeBody, WholeResponse};
pub use control::{Body, ProxyCommand, ProxyRequest, WebSocketStart};

/// Why the content of a message cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("{0} is not valid base64")]
    Base64(&'static str),
    #[error("{0} is neither text nor JSON")]
    Form(&'static str),
    #[error("a WebSocket message without an opcode")]
    NoOpcode,
    #[error("a binary message that names no exchange, or is cut off")]
    Binary,
    #[error("header {0:?} cannot be sent")]
    Header(String),
    #[error("the body is not valid gzip")]
    Gzip,
}

/// Bytes that are base64 in the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base64(pub Bytes);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        decode_base64("data", &text).map(Self).map_err(de::Error::custom)
    }
}

impl From<Bytes> for Base64 {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

fn decode_base64(what: &'static str, text: &str) -> Result<Bytes, ContentError> {
    STANDARD.decode(text.trim()).map(Bytes::from).map_err(|_| ContentError::Base64(what))
}

/// Header fields as in a message: a name, and one value or several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Headers(BTreeMap<String, Values>);

/// `null` is what Go writes for an empty map or list.
impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Option::<BTreeMap<String, Option<Values>>>::deserialize(deserializer)?.unwrap_or_default();
        Ok(Self(fields.into_iter().filter_map(|(name, values)| Some((name, values?))).collect()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Values {
    Several(Vec<String>),
    One(String),
}

impl Headers {
    /// As they go into an HTTP message.
    ///
    /// # Errors
    /// For the first that HTTP does not allow.
    pub fn to_map(&self) -> Result<HeaderMap, ContentError> {
        let mut map = HeaderMap::new();
        for (name, values) in &self.0 {
            let bad = |_| ContentError::Header(name.chars().take(64).collect());
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(()))?;
            let values = match values {
                Values::Several(values) => values.as_slice(),
                Values::One(value) => std::slice::from_ref(value),
            };
            for value in values {
                map.append(&key, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad(()))?);
            }
        }
        Ok(map)
    }

    /// The first value of the field of that name, in any case of letters.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, values) = self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        match values {
            Values::Several(values) => values.first().map(String::as_str),
            Values::One(value) => Some(value),
        }
    }
}

/// Names are written as HTTP/1.1 servers of Go do (`Content-Type`): the existing agent looks some up by their exact case.
/// A value that is not UTF-8 cannot be sent and is left out.
impl From<&HeaderMap> for Headers {
    fn from(map: &HeaderMap) -> Self {
        let mut headers: BTreeMap<String, Values> = BTreeMap::new();
        for (name, value) in map {
            let Ok(value) = std::str::from_utf8(value.as_bytes()) else { continue };
            match headers.entry(canonical(name)).or_insert_with(|| Values::Several(Vec::new())) {
                Values::Several(values) => values.push(value.to_owned()),
                Values::One(_) => {}
            }
        }
        Self(headers)
    }
}

fn canonical(name: &HeaderName) -> String {
    let mut start = true;
    let upper = |c: char| {
        let letter = if start { c.to_ascii_uppercase() } else { c };
        start = c == '-';
        letter
    };
    name.as_str().chars().map(upper).collect()
}

/// A message of a WebSocket on its way through the link: `stream_id`, and base64 of its opcode and bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebSocketData {
    #[serde(default)]
    pub stream_id: String,
    pub data: Base64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_type: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What a WebSocket carries. The numbers are those of RFC 6455.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl TryFrom<u8> for Opcode {
    type Error = ContentError;

    fn try_from(code: u8) -> Result<Self, ContentError> {
        [Self::Text, Self::Binary, Self::Close, Self::Ping, Self::Pong]
            .into_iter()
            .find(|opcode| *opcode as u8 == code)
            .ok_or(ContentError::NoOpcode)
    }
}

impl WebSocketData {
    /// `bytes` as a message of `opcode`, for the stream of that name.
    pub fn new(stream_id: &str, opcode: Opcode, bytes: &[u8]) -> Self {
        let data = [&[opcode as u8], bytes].concat();
        Self { stream_id: stream_id.to_owned(), data: Base64(data.into()), message_type: None, request_id: None }
    }

    /// The opcode and what follows it. Some peers send bytes without one, and name it as `message_type` only.
    ///
    /// # Errors
    /// When there is none.
    pub fn parts(&self) -> Result<(Opcode, Bytes), ContentError> {
        if let Some(named) = self.message_type.filter(|named| self.data.0.first() != Some(named)) {
            return Ok((named.try_into()?, self.data.0.clone()));
        }
        let code = *self.data.0.first().ok_or(ContentError::NoOpcode)?;
        Ok((code.try_into()?, self.data.0.slice(1..)))
    }
}

/// The end of a WebSocket, or of what never became one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebSocketClose {
    pub stream_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `tcp_tunnel_start`: a connection of a client of the gateway. Its request id is the tunnel's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpTunnelStart {
    pub tunnel_id: String,
    pub gateway_name: String,
    pub gateway_namespace: String,
    pub gateway_port: u16,
    pub service_name: String,
    pub service_namespace: String,
    pub service_port: u16,
    pub client_addr: String,
}

/// `tcp_tunnel_data`, in either direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpTunnelData {
    pub data: Base64,
    /// `agent_to_gateway` from the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
}

/// `tcp_tunnel_close`, in either direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpTunnelClose {
    /// From the agent: `service_closed`, `connection_failed`, `registration_failed` or `write_error`.
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `udp_tunnel_data`, in either direction: one datagram of one client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UdpTunnelData {
    pub tunnel_id: String,
    pub data: Base64,
    pub client_addr: String,
    pub client_port: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway_namespace: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub gateway_port: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_namespace: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub service_port: u16,
    /// `agent_to_gateway` from the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// `[u16 id length][id][rest]`: what both directions' binary messages begin with.
fn split_id(frame: &Bytes) -> Result<(&str, Bytes), ContentError> {
    let (length, rest) = frame.split_first_chunk::<2>().ok_or(ContentError::Binary)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (id, _) = rest.split_at_checked(length).ok_or(ContentError::Binary)?;
    let id = std::str::from_utf8(id).map_err(|_| ContentError::Binary)?;
    Ok((id, frame.slice(2 + length..)))
}
