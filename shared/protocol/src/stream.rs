//! The header that whoever opens a yamux stream writes first.
//!
//! ```text
//! v1  u8 1 · u8 protocol (1 tcp, 2 udp) · u16 port · u16 len + service · u16 len + namespace · u16 len + tunnel id
//! v2  u8 2 · u16 len · JSON {"kind", "target"?, "id", "traceparent"?, "deadline_ms"?}
//! ```
//! All numbers big endian. Version 1 is that of the published protocol; version 2 needs the capability `streams/2`.
//!
//! What follows a header of version 2: HTTP/1.1 on `kube` and `http`. On `tcp` and `udp` the agent speaks first and says
//! whether there is a connection ([`StreamAnswer`]); then bytes each way, or datagrams, each behind its length
//! ([`Datagrams`]). Behind a header of version 1 there are only the bytes, of `udp` too: a dial that fails resets the stream.

mod answer;
mod datagram;
mod target;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use answer::{AnswerError, MAX_REASON, StreamAnswer};
pub use datagram::{Datagrams, MAX_DATAGRAM, put_datagram};
pub use target::{HttpTarget, InvalidTarget, Target};

use crate::id::{InvalidId, StreamId};
use crate::trace::TraceParent;

/// Longest JSON of a version 2 header, in bytes.
pub const MAX_JSON: usize = 8 * 1024;

const V1: u8 = 1;
const V2: u8 = 2;

/// What a stream carries after its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamKind {
    /// HTTP/1.1 for the Kubernetes API server.
    Kube,
    /// HTTP/1.1 for a Service of the cluster.
    Http,
    /// Bytes for a TCP port of a Service.
    Tcp,
    /// Datagrams for a UDP port of a Service; in version 2 each after a u16 length.
    Udp,
}

/// A stream's header, of either version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    pub kind: StreamKind,
    /// Which Service; none for `kube`.
    pub target: Option<Target>,
    /// The stream's name in logs and traces of both ends.
    pub id: StreamId,
    /// The trace that the stream belongs to. One that does not follow the specification reads as none.
    pub traceparent: Option<TraceParent>,
    /// How much longer whoever opened the stream is interested in its beginning to answer, in whole milliseconds: a
    /// remaining time, so that the peers' clocks need not agree.
    pub deadline: Option<Duration>,
}

/// Why bytes are not a stream header. The stream is to be reset; the link is not harmed.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("stream header has version {0}, known are 1 and 2")]
    Version(u8),
    #[error("stream header names protocol {0}, known are 1 (TCP) and 2 (UDP)")]
    Protocol(u8),
    #[error("{field} of the stream header has {length} bytes, at most {max} are allowed")]
    TooLong { field: &'static str, length: usize, max: usize },
    #[error("{field} of the stream header is not UTF-8")]
    NotUtf8 { field: &'static str },
    #[error("stream header is not valid JSON")]
    Json(#[source] serde_json::Error),
    #[error("id of the stream header is not valid")]
    Id(#[source] InvalidId),
    #[error("target of the stream header is not valid")]
    Target(#[source] InvalidTarget),
    #[error("a stream of kind {0:?} needs a target")]
    NoTarget(StreamKind),
}

/// Version 2's JSON. Names are part of the protocol.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    kind: StreamKind,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    target: Option<Text<'a>>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    traceparent: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
}

/// A string that is borrowed where it can be; serde borrows a `Cow` only as a field of its own, not inside an `Option`.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl StreamKind {
    /// The name in headers, subjects and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kube => "kube",
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl std::fmt::Display for StreamKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl StreamHeader {
    /// A header for a `kube` stream with nothing but an id.
    pub fn kube(id: StreamId) -> Self {
        Self { kind: StreamKind::Kube, target: None, id, traceparent: None, deadline: None }
    }

    /// The bytes of version 2.
    pub fn encode_v2(&self) -> Vec<u8> {
        let traceparent = self.traceparent.map(|parent| parent.encode());
        let wire = Wire {
            kind: self.kind,
            target: self.target.as_ref().map(|target| Text(Cow::Owned(target.to_string()))),
            id: Cow::Borrowed(self.id.as_str()),
            traceparent: traceparent
                .as_ref()
                .and_then(|text| std::str::from_utf8(text).ok())
                .map(|text| Text(Cow::Borrowed(text))),
            deadline_ms: self.deadline.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        };
        let json = crate::envelope::to_json(&wire);
        let mut out = Vec::with_capacity(3 + json.len());
        out.push(V2);
        // Target and id are bounded by their types, far below what a u16 holds.
        out.extend_from_slice(&u16::try_from(json.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(json.as_bytes());
        out
    }

    /// The bytes of version 1; `None` when the header has no target or a kind that version 1 does not know.
    pub fn encode_v1(&self) -> Option<Vec<u8>> {
        let target = self.target.as_ref()?;
        let protocol = match self.kind {
            StreamKind::Tcp => 1,
            StreamKind::Udp => 2,
            StreamKind::Kube | StreamKind::Http => return None,
        };
        let mut out = vec![V1, protocol];
        out.extend_from_slice(&target.port().get().to_be_bytes());
        for field in [target.service(), target.namespace(), self.id.as_str()] {
            out.extend_from_slice(&u16::try_from(field.len()).ok()?.to_be_bytes());
            out.extend_from_slice(field.as_bytes());
        }
        Some(out)
    }

    /// Reads a header from the start of `buf`: it and its length in bytes, or `None` when more bytes are needed.
    ///
    /// Never asks for more than 8 KiB + 3 bytes. Allocates the id and the target's names, nothing else.
    ///
    /// # Errors
    /// As soon as the bytes cannot be the beginning of a header.
    pub fn decode(buf: &[u8]) -> Result<Option<(Self, usize)>, HeaderError> {
        match buf.split_first() {
            None => Ok(None),
            Some((&V1, rest)) => decode_v1(rest),
            Some((&V2, rest)) => decode_v2(rest),
            Some((&version, _)) => Err(HeaderError::Version(version)),
        }
    }
}

fn decode_v2(buf: &[u8]) -> Result<Option<(StreamHeader, usize)>, HeaderError> {
    let Some((length, rest)) = buf.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > MAX_JSON {
        return Err(HeaderError::TooLong { field: "JSON", length, max: MAX_JSON });
    }
    let Some(json) = rest.get(..length) else { return Ok(None) };
    let wire: Wire<'_> = serde_json::from_slice(json).map_err(HeaderError::Json)?;
    let target = wire.target.map(|text| text.0.parse::<Target>()).transpose().map_err(HeaderError::Target)?;
    if target.is_none() && wire.kind != StreamKind::Kube {
        return Err(HeaderError::NoTarget(wire.kind));
    }
    let header = StreamHeader {
        kind: wire.kind,
        target,
        id: StreamId::new(wire.id).map_err(HeaderError::Id)?,
        traceparent: wire.traceparent.and_then(|text| TraceParent::parse(&text.0).ok()),
        deadline: wire.deadline_ms.map(Duration::from_millis),
    };
    Ok(Some((header, 3 + length)))
}

fn decode_v1(buf: &[u8]) -> Result<Option<(StreamHeader, usize)>, HeaderError> {
    let kind = match buf.first() {
        None => return Ok(None),
        Some(1) => StreamKind::Tcp,
        Some(2) => StreamKind::Udp,
        Some(&other) => return Err(HeaderError::Protocol(other)),
    };
    let Some((port, rest)) = buf.get(1..).and_then(<[u8]>::split_first_chunk::<2>) else { return Ok(None) };
    let Some((service, rest)) = field("service name", rest, Target::MAX_LABEL)? else { return Ok(None) };
    let Some((namespace, rest)) = field("service namespace", rest, Target::MAX_LABEL)? else { return Ok(None) };
    let Some((id, rest)) = field("tunnel id", rest, StreamId::MAX)? else { return Ok(None) };
    let target = Target::new(namespace, service, u16::from_be_bytes(*port)).map_err(HeaderError::Target)?;
    let id = StreamId::new(id).map_err(HeaderError::Id)?;
    let length = 1 + buf.len() - rest.len();
    Ok(Some((StreamHeader { kind, target: Some(target), id, traceparent: None, deadline: None }, length)))
}

/// A u16 length and as many bytes of UTF-8, and what follows.
fn field<'a>(field: &'static str, buf: &'a [u8], max: usize) -> Result<Option<(&'a str, &'a [u8])>, HeaderError> {
    let Some((length, rest)) = buf.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > max {
        return Err(HeaderError::TooLong { field, length, max });
    }
    let Some((text, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let text = std::str::from_utf8(text).map_err(|_| HeaderError::NotUtf8 { field })?;
    Ok(Some((text, rest)))
}
