//! From the agent to the control plane.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Base64, ContentError, Headers, TcpTunnelClose, TcpTunnelData, UdpTunnelData, WebSocketClose, WebSocketData,
    decode_base64, split_id,
};
use crate::envelope::{Empty, Envelope, ParseError, encode};

/// What an agent says about one exchange.
#[derive(Clone, Debug, PartialEq)]
pub enum ProxyReply {
    /// The answer as a whole.
    Whole(Box<WholeResponse>),
    /// The answer begins.
    Head(ResponseHead),
    /// More of it.
    Chunk(ResponseChunk),
    /// It is whole.
    End,
    /// It broke off.
    Abort(Abort),
    /// There is no answer.
    Error(Abort),
    /// What is sent to this exchange comes faster than it is taken.
    Backpressure(Backpressure),
    WebSocketData(WebSocketData),
    WebSocketClose(WebSocketClose),
    TcpData(TcpTunnelData),
    TcpClose(TcpTunnelClose),
    UdpData(Box<UdpTunnelData>),
}

/// `proxy_response`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WholeResponse {
    #[serde(alias = "status_code")]
    pub status: u16,
    pub headers: Headers,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
}

/// How the text of a body is to be read. Without one it is the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    Base64,
    /// Base64 of gzip.
    Gzip,
}

/// The bytes of a whole response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WholeBody {
    Plain(Bytes),
    /// To be unpacked.
    Gzip(Bytes),
}

/// `proxy_response_header`, in older words `proxy_response_start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResponseHead {
    #[serde(alias = "status_code")]
    pub status: u16,
    pub headers: Headers,
}

/// `proxy_response_chunk`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseChunk {
    pub data: Base64,
    /// `base64`.
    #[serde(default)]
    pub encoding: String,
    /// Bytes, decoded.
    #[serde(default)]
    pub size: usize,
}

/// `proxy_response_abort` and `proxy_error`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Abort {
    /// For people.
    pub error: String,
    /// Of a stream of the Kubernetes API: the envelope's id once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// `backpressure`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backpressure {
    pub request_id: String,
    /// `channel_full`.
    pub reason: String,
}

impl WholeResponse {
    /// The body.
    ///
    /// # Errors
    /// When it is not what its encoding says.
    pub fn bytes(&self) -> Result<WholeBody, ContentError> {
        let text = self.body.as_deref().unwrap_or_default();
        Ok(match self.encoding {
            None => WholeBody::Plain(Bytes::from(text.to_owned())),
            Some(Encoding::Base64) => WholeBody::Plain(decode_base64("body", text)?),
            Some(Encoding::Gzip) => WholeBody::Gzip(decode_base64("body", text)?),
        })
    }
}

impl ResponseChunk {
    pub fn new(bytes: Bytes) -> Self {
        Self { size: bytes.len(), data: Base64(bytes), encoding: "base64".to_owned() }
    }
}

impl Abort {
    pub fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), request_id: None }
    }
}

impl ProxyReply {
    /// The `type` of the envelope.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Whole(_) => "proxy_response",
            Self::Head(_) => "proxy_response_header",
            Self::Chunk(_) => "proxy_response_chunk",
            Self::End => "proxy_response_end",
            Self::Abort(_) => "proxy_response_abort",
            Self::Error(_) => "proxy_error",
            Self::Backpressure(_) => "backpressure",
            Self::WebSocketData(_) => "proxy_websocket_data",
            Self::WebSocketClose(_) => "proxy_websocket_close",
            Self::TcpData(_) => "tcp_tunnel_data",
            Self::TcpClose(_) => "tcp_tunnel_close",
            Self::UdpData(_) => "udp_tunnel_data",
        }
    }

    /// None: it is not one of these.
    pub(crate) fn read(envelope: &Envelope<'_>) -> Result<Option<Self>, ParseError> {
        Ok(Some(match &*envelope.kind {
            "proxy_response" => Self::Whole(envelope.payload("proxy_response")?),
            "proxy_response_header" | "proxy_response_start" => Self::Head(envelope.payload("proxy_response_header")?),
            "proxy_response_chunk" => Self::Chunk(envelope.payload("proxy_response_chunk")?),
            "proxy_response_end" => Self::End,
            "proxy_response_abort" => Self::Abort(envelope.payload("proxy_response_abort")?),
            "proxy_error" => Self::Error(envelope.payload("proxy_error")?),
            "backpressure" => Self::Backpressure(envelope.payload("backpressure")?),
            "proxy_websocket_data" | "ws_data" => Self::WebSocketData(envelope.payload("proxy_websocket_data")?),
            "proxy_websocket_close" | "ws_close" => Self::WebSocketClose(envelope.payload("proxy_websocket_close")?),
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
            Self::Whole(payload) => encode(kind, request_id, payload),
            Self::Head(payload) => encode(kind, request_id, payload),
            Self::Chunk(payload) => encode(kind, request_id, payload),
            Self::End => encode(kind, request_id, &Empty {}),
            Self::Abort(payload) | Self::Error(payload) => encode(kind, request_id, payload),
            Self::Backpressure(payload) => encode(kind, request_id, payload),
            Self::WebSocketData(payload) => encode(kind, request_id, payload),
            Self::WebSocketClose(payload) => encode(kind, request_id, payload),
            Self::TcpData(payload) => encode(kind, request_id, payload),
            Self::TcpClose(payload) => encode(kind, request_id, payload),
            Self::UdpData(payload) => encode(kind, request_id, payload),
        }
    }

    /// A binary message with a whole answer: `[u16 id length][id][u32 status][u32 length of JSON][headers as JSON][body]`.
    /// Gives the request's id, status, headers and body; whether that is gzip does not show but in its content.
    ///
    /// # Errors
    /// When it is cut off, or its parts are not what they have to be.
    pub fn binary_response(frame: &Bytes) -> Result<(&str, ResponseHead, Bytes), ContentError> {
        let (id, rest) = split_id(frame)?;
        let (status, tail) = rest.split_first_chunk::<4>().ok_or(ContentError::Binary)?;
        let (length, tail) = tail.split_first_chunk::<4>().ok_or(ContentError::Binary)?;
        let status = u16::try_from(u32::from_be_bytes(*status)).map_err(|_| ContentError::Binary)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| ContentError::Binary)?;
        let (json, _) = tail.split_at_checked(length).ok_or(ContentError::Binary)?;
        let headers = serde_json::from_slice(json).map_err(|_| ContentError::Binary)?;
        Ok((id, ResponseHead { status, headers }, rest.slice(8 + length..)))
    }
}
