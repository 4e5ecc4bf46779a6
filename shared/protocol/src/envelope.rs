//! The frame around every control message: `{type, request_id?, payload, timestamp}` in one text frame.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::mask::mask_json;

/// One received message with its payload still unparsed. Borrows from the frame.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    /// Which message this is.
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    /// Ties a reply to its request. Empty is the same as absent.
    #[serde(default, borrow)]
    request_id: Option<Cow<'a, str>>,
    /// The message's own fields; absent and `null` are the same as `{}`.
    #[serde(default, borrow)]
    payload: Option<&'a RawValue>,
    /// When the sender made it, RFC 3339, as sent: peers' clocks and formats are not to be relied on.
    #[serde(default, borrow)]
    pub timestamp: Option<Cow<'a, str>>,
}

/// Ties a reply to its request; made by whoever asks, echoed by whoever answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Box<str>);

/// Why a text frame is not a message.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not JSON, or JSON without a `type`. `text` is what came, masked and cut.
    #[error("message is not a valid JSON envelope: {text}")]
    Envelope {
        text: String,
        #[source]
        source: serde_json::Error,
    },
    /// A known message whose payload does not have the fields it must have.
    #[error("payload of message {kind:?} is not valid")]
    Payload {
        kind: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

impl<'a> Envelope<'a> {
    /// Reads the envelope of one text frame. Unknown fields are ignored.
    ///
    /// # Errors
    /// When the text is not a JSON object with a string `type`.
    pub fn parse(text: &'a str) -> Result<Self, ParseError> {
        serde_json::from_str(text).map_err(|source| ParseError::Envelope { text: mask_json(text), source })
    }

    /// The request id, unless absent or empty.
    pub fn request_id(&self) -> Option<RequestId> {
        self.request_id.as_deref().filter(|id| !id.is_empty()).map(|id| RequestId(id.into()))
    }

    /// The payload's JSON text; `{}` when there is none.
    pub fn payload_text(&self) -> &'a str {
        self.payload.map_or("{}", RawValue::get)
    }

    /// The payload as `T`; `kind` is named in the error.
    ///
    /// # Errors
    /// When the payload does not have `T`'s fields.
    pub fn payload<T: Deserialize<'a>>(&self, kind: &'static str) -> Result<T, ParseError> {
        serde_json::from_str(self.payload_text()).map_err(|source| ParseError::Payload { kind, source })
    }
}

impl RequestId {
    /// The id as sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RequestId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl From<String> for RequestId {
    fn from(id: String) -> Self {
        Self(id.into())
    }
}

impl std::ops::Deref for RequestId {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Serialize)]
struct Outgoing<'a, P: Serialize + ?Sized> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    payload: &'a P,
    timestamp: Timestamp,
}

/// A payload without fields.
#[derive(Serialize)]
pub(crate) struct Empty {}

/// The text frame of a message made now.
pub fn encode<P: Serialize + ?Sized>(kind: &str, request_id: Option<&str>, payload: &P) -> String {
    to_json(&Outgoing { kind, request_id, payload, timestamp: Timestamp::now() })
}

/// JSON of one of this crate's own types.
#[expect(clippy::expect_used, reason = "writing to memory cannot fail, and every key of these types is a string")]
pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("a message of ours serialises")
}
