//! From the control plane to the agent.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{
    Base64, ContentError, Headers, TcpTunnelClose, TcpTunnelData, TcpTunnelStart, UdpTunnelData, WebSocketClose,
    WebSocketData, decode_base64, split_id,
};
use crate::envelope::{Empty, Envelope, ParseError, encode};

/// What an agent is told about one exchange.
#[derive(Clone, Debug, PartialEq)]
pub enum ProxyCommand {
    Request(Box<ProxyRequest>),
    /// More of a request's body; or, after a request with `use_zero_copy`, of what the client says.
    Chunk(Bytes),
    /// The request's body is whole.
    End,
    /// Nobody waits for the answer any more.
    Cancel,
    WebSocketStart(Box<WebSocketStart>),
    WebSocketData(WebSocketData),
    WebSocketClose(WebSocketClose),
    TcpStart(Box<TcpTunnelStart>),
    TcpData(TcpTunnelData),
    TcpClose(TcpTunnelClose),
    UdpData(Box<UdpTunnelData>),
}

/// `proxy_request`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyRequest {
    pub method: String,
    pub path: String,
    /// Without its `?`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub query: String,
    pub headers: Headers,
    /// Text, base64 by `body_encoding`, or the JSON itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_encoding: Option<String>,
    /// The body follows as the next binary message.
    #[serde(skip_serializing_if = "is_false")]
    pub body_binary: bool,
    /// `http` or `https`, of a Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    #[serde(alias = "isWebSocket", skip_serializing_if = "is_false")]
    pub is_websocket: bool,
    #[serde(alias = "useZeroCopy", skip_serializing_if = "is_false")]
    pub use_zero_copy: bool,
    /// What the client has sent behind its request: base64, text, or an array of numbers.
    #[serde(alias = "headData", skip_serializing_if = "Option::is_none")]
    pub head_data: Option<Value>,
    /// A WebSocket subprotocol; makes it a WebSocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub supports_streaming: bool,
    /// The answer may come in pieces.
    #[serde(skip_serializing_if = "is_false")]
    pub supports_response_streaming: bool,
    /// The body follows in pieces.
    #[serde(alias = "streaming", skip_serializing_if = "is_false")]
    pub use_streaming: bool,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Milliseconds as a number, or text such as `1m30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "port")]
    pub service_port: Option<u16>,
}

/// How a request's body comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Here(Bytes),
    /// As the next binary message.
    NextBinary,
    /// As [`ProxyCommand::Chunk`]s up to [`ProxyCommand::End`].
    Chunks,
}

/// `proxy_websocket_start`: a WebSocket of the Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebSocketStart {
    pub stream_id: String,
    pub method: String,
    pub path: String,
    pub query: String,
    /// The subprotocols, separated by commas.
    pub protocol: String,
    pub headers: Headers,
}

impl ProxyRequest {
    /// Where the body is, and the body if it is here.
    ///
    /// # Errors
    /// When it is not what `body_encoding` says.
    pub fn body(&self) -> Result<Body, ContentError> {
        if self.body_binary {
            return Ok(Body::NextBinary);
        }
        if self.use_streaming {
            return Ok(Body::Chunks);
        }
        let bytes = match &self.body {
            None | Some(Value::Null) => Bytes::new(),
            Some(Value::String(text)) if self.body_encoding.as_deref() == Some("base64") => {
                decode_base64("body", text)?
            }
            Some(Value::String(text)) => Bytes::from(text.clone()),
            Some(json @ (Value::Object(_) | Value::Array(_))) => Bytes::from(json.to_string()),
            Some(_) => return Err(ContentError::Form("body")),
        };
        Ok(Body::Here(bytes))
    }

    /// What came behind the request, to be sent on first.
    ///
    /// # Errors
    /// When it has none of its forms.
    pub fn head_data(&self) -> Result<Bytes, ContentError> {
        match &self.head_data {
            None | Some(Value::Null) => Ok(Bytes::new()),
            // Raw text where it is not base64.
            Some(Value::String(text)) => {
                Ok(decode_base64("head_data", text).unwrap_or_else(|_| Bytes::from(text.clone())))
            }
            Some(Value::Array(numbers)) => {
                let byte = |number: &Value| number.as_u64().and_then(|number| u8::try_from(number).ok());
                let bytes: Option<Vec<u8>> = numbers.iter().map(byte).collect();
                bytes.map(Bytes::from).ok_or(ContentError::Form("head_data"))
            }
            Some(_) => Err(ContentError::Form("head_data")),
        }
    }

    /// How long whoever asks waits, if it says so. What cannot be read is the same as unsaid.
    pub fn time_left(&self, now: Timestamp) -> Option<Duration> {
        let deadline = self.deadline.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
        if let Some(deadline) = deadline {
            return Some(Duration::try_from(deadline.duration_since(now)).unwrap_or_default());
        }
        match self.timeout.as_ref()? {
            Value::Number(milliseconds) => milliseconds.as_u64().map(Duration::from_millis),
            Value::String(text) => text.parse::<jiff::SignedDuration>().ok()?.try_into().ok(),
            _ => None,
        }
        .filter(|timeout: &Duration| !timeout.is_zero())
    }

    /// Whether it asks for a WebSocket, in any of the ways that count.
    pub fn wants_websocket(&self) -> bool {
        let has = |name| self.headers.get(name).is_some();
        self.is_websocket
            || self.protocol.as_deref().is_some_and(|protocol| !protocol.is_empty())
            || self.headers.get("upgrade").is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
            || ["sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol"].into_iter().any(has)
    }
}

/// A number, or its digits as text; anything else is the same as none.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
    .filter(|port| *port > 0))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// A piece of a body, under either of its names.
#[derive(Deserialize)]
struct Piece {
    #[serde(alias = "chunk")]
    data: Base64,
}

#[derive(Serialize)]
struct PieceOut<'a> {
    data: &'a Base64,
}

impl ProxyCommand {
    /// The `type` of the envelope.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Request(_) => "proxy_request",
            Self::Chunk(_) => "proxy_request_chunk",
            Self::End => "proxy_request_stream_end",
            Self::Cancel => "proxy_cancel",
            Self::WebSocketStart(_) => "proxy_websocket_start",
            Self::WebSocketData(_) => "proxy_websocket_data",
            Self::WebSocketClose(_) => "proxy_websocket_close",
            Self::TcpStart(_) => "tcp_tunnel_start",
            Self::TcpData(_) => "tcp_tunnel_data",
            Self::TcpClose(_) => "tcp_tunnel_close",
            Self::UdpData(_) => "udp_tunnel_data",
        }
    }

    /// Every `type` that is read, older names included.
    pub const KINDS: [&'static str; 15] = [
        "proxy_request",
        "proxy_request_chunk",
        "proxy_request_stream_end",
        "proxy_cancel",
        "proxy_stream_data",
        "proxy_websocket_start",
        "ws_start",
        "proxy_websocket_data",
        "ws_data",
        "proxy_websocket_close",
        "ws_close",
        "tcp_tunnel_start",
        "tcp_tunnel_data",
        "tcp_tunnel_close",
        "udp_tunnel_data",
    ];

    /// None: it is not one of these.
    pub(crate) fn read(envelope: &Envelope<'_>) -> Result<Option<Self>, ParseError> {
        Ok(Some(match &*envelope.kind {
            "proxy_request" => Self::Request(envelope.payload("proxy_request")?),
            "proxy_request_chunk" | "proxy_stream_data" => {
                Self::Chunk(envelope.payload::<Piece>("proxy_request_chunk")?.data.0)
            }
            "proxy_request_stream_end" => Self::End,
            "proxy_cancel" => Self::Cancel,
            "proxy_websocket_start" | "ws_start" => Self::WebSocketStart(envelope.payload("proxy_websocket_start")?),
            "proxy_websocket_data" | "ws_data" => Self::WebSocketData(envelope.payload("proxy_websocket_data")?),
            "proxy_websocket_close" | "ws_close" => Self::WebSocketClose(envelope.payload("proxy_websocket_close")?),
            "tcp_tunnel_start" => Self::TcpStart(envelope.payload("tcp_tunnel_start")?),
            "tcp_tunnel_data" => Self::TcpData(envelope.payload("tcp_tunnel_data")?),
            "tcp_tunnel_close" => Self::TcpClose(envelope.payload("tcp_tunnel_close")?),
            "udp_tunnel_data" => Self::UdpData(envelope.payload("udp_tunnel_data")?),
            _ => return Ok(None),
        }))
    }

    /// The text frame of this message, made now.
    pub fn encode(&self, request_id: Option<&str>) -> String {
        let kind = self.kind();
        match self {
            Self::Request(payload) => encode(kind, request_id, payload),
            Self::Chunk(bytes) => encode(kind, request_id, &PieceOut { data: &Base64(bytes.clone()) }),
            Self::End | Self::Cancel => encode(kind, request_id, &Empty {}),
            Self::WebSocketStart(payload) => encode(kind, request_id, payload),
            Self::WebSocketData(payload) => encode(kind, request_id, payload),
            Self::WebSocketClose(payload) => encode(kind, request_id, payload),
            Self::TcpStart(payload) => encode(kind, request_id, payload),
            Self::TcpData(payload) => encode(kind, request_id, payload),
            Self::TcpClose(payload) => encode(kind, request_id, payload),
            Self::UdpData(payload) => encode(kind, request_id, payload),
        }
    }

    /// The body of the request with `body_binary` before it: `[u16 id length][id][body]`. Gives the request's id too.
    ///
    /// # Errors
    /// When it is cut off, or its id is not text.
    pub fn binary_body(frame: &Bytes) -> Result<(&str, Bytes), ContentError> {
        split_id(frame)
    }
}
