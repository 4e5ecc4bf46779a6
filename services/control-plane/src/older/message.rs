//! Agents' messages, each to the exchange that it is of.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use protocol::RequestId;
use protocol::message::proxied::{
    ContentError, ProxyCommand, ProxyReply, ResponseHead, TcpTunnelClose, WebSocketClose, WebSocketData, WholeBody,
};

use super::Shared;
use super::exchange::{Broken, Head, Said};

/// The Service has sent all it had to.
const SERVICE_CLOSED: &str = "service_closed";

/// What no answer begins with.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("status {0} is none of an answer")]
    Status(u16),
}

pub fn take(shared: &Shared, request_id: Option<&RequestId>, reply: ProxyReply) {
    let named = match &reply {
        ProxyReply::WebSocketData(WebSocketData { stream_id, .. })
        | ProxyReply::WebSocketClose(WebSocketClose { stream_id, .. }) => stream_id.as_str(),
        ProxyReply::Backpressure(backpressure) => backpressure.request_id.as_str(),
        ProxyReply::UdpData(data) => data.tunnel_id.as_str(),
        _ => "",
    };
    let named = if named.is_empty() { request_id.map_or("", RequestId::as_str) } else { named }.to_owned();
    let said = match reply {
        ProxyReply::Head(head) => usable(&head).map(Said::Head),
        ProxyReply::Whole(whole) => {
            let head = ResponseHead { status: whole.status, headers: whole.headers.clone() };
            usable(&head).and_then(|head| Ok(Said::Whole(head, whole.bytes()?)))
        }
        ProxyReply::Chunk(chunk) => Ok(Said::Data(chunk.data.0)),
        ProxyReply::End | ProxyReply::WebSocketClose(WebSocketClose { error: None, .. }) => Ok(Said::End),
        ProxyReply::WebSocketClose(WebSocketClose { error: Some(error), .. }) => {
            Ok(Said::Broken(Broken::Refused(Broken::text(&error))))
        }
        ProxyReply::Abort(abort) => Ok(Said::Broken(Broken::Aborted(Broken::text(&abort.error)))),
        ProxyReply::Error(error) => Ok(Said::Broken(Broken::Refused(Broken::text(&error.error)))),
        ProxyReply::Backpressure(_) => Ok(Said::Broken(Broken::Dropped)),
        ProxyReply::WebSocketData(data) => {
            data.parts().map(|(opcode, bytes)| Said::Message(opcode, bytes)).map_err(Unusable::from)
        }
        ProxyReply::TcpData(data) => Ok(Said::Data(data.data.0)),
        ProxyReply::UdpData(data) => Ok(Said::Data(data.data.0)),
        ProxyReply::TcpClose(close) => Ok(closed(&close)),
    };
    let said = said.unwrap_or_else(|error| Said::Broken(Broken::malformed(&error)));
    if !shared.table.give(&named, said) {
        shared.late();
    }
}

/// The end of a connection, or why there is none.
fn closed(close: &TcpTunnelClose) -> Said {
    let reason = match close.error.as_deref().filter(|error| !error.is_empty()) {
        Some(error) => format!("{}: {error}", close.reason),
        None if close.reason == SERVICE_CLOSED => return Said::End,
        None => close.reason.clone(),
    };
    Said::Broken(Broken::Refused(Broken::text(&reason)))
}

/// False: it does not say which exchange it is of.
pub fn take_binary(shared: &Shared, frame: &Bytes) -> bool {
    match ProxyReply::binary_response(frame) {
        Ok((id, head, body)) => {
            let said = usable(&head).map(|head| {
                let body = if is_packed(&head.headers, &body) { WholeBody::Gzip(body) } else { WholeBody::Plain(body) };
                Said::Whole(head, body)
            });
            let said = said.unwrap_or_else(|error| Said::Broken(Broken::malformed(&error)));
            if !shared.table.give(id, said) {
                shared.late();
            }
            true
        }
        // Its id comes first, and may be whole.
        Err(error) => match ProxyCommand::binary_body(frame) {
            Ok((id, _)) if shared.table.kind(id).is_some() => {
                take_broken(shared, &RequestId::from(id), Broken::malformed(&error));
                true
            }
            _ => false,
        },
    }
}

pub fn take_broken(shared: &Shared, id: &RequestId, broken: Broken) {
    shared.metrics.bad_messages.fetch_add(1, Relaxed);
    tracing::debug!(exchange = %id, reason = %broken, "a message of an exchange cannot be used");
    if !shared.table.give(id, Said::Broken(broken)) {
        shared.late();
    }
}

fn usable(head: &ResponseHead) -> Result<Head, Unusable> {
    let status = StatusCode::from_u16(head.status).ok().filter(|status| !status.is_informational());
    let status = status.filter(|status| status.as_u16() < 600).ok_or(Unusable::Status(head.status))?;
    Ok(Head { status, headers: head.headers.to_map()? })
}

/// Whether the agent has packed the body of a binary message on its way, which no field of that message says.
///
/// It packs bodies of at least 1 KiB of the types below. Such a body that begins as gzip does is taken for packed, unless
/// its head says that it is gzip itself, or is as long as the body is.
fn is_packed(headers: &HeaderMap, body: &[u8]) -> bool {
    let has = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let kind = has(header::CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
    let packs = ["text/", "json", "javascript", "xml", "html", "yaml"].into_iter().any(|part| kind.contains(part));
    let is_gzip = has(header::CONTENT_ENCODING).is_some_and(|coding| coding.to_ascii_lowercase().contains("gzip"));
    let as_long = has(header::CONTENT_LENGTH).is_some_and(|length| length.parse() == Ok(body.len()));
    packs && !is_gzip && !as_long && body.starts_with(&[0x1f, 0x8b])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_agent_packs_and_no_head_explains_is_packed() {
        let headers = |fields: &[(&'static str, &'static str)]| {
            fields
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
                .collect::<HeaderMap>()
        };
        let (gzip, json) = (&[0x1f, 0x8b, 8, 0][..], ("content-type", "Application/JSON; charset=utf-8"));
        assert!(is_packed(&headers(&[json]), gzip));
        assert!(is_packed(&headers(&[json, ("content-length", "2000")]), gzip), "that of what is packed");
        assert!(!is_packed(&headers(&[json]), b"{}"));
        assert!(!is_packed(&headers(&[json, ("content-encoding", "gzip")]), gzip), "it is the client that unpacks it");
        assert!(!is_packed(&headers(&[json, ("content-length", "4")]), gzip), "it is as long as it has to be");
        assert!(!is_packed(&headers(&[("content-type", "application/octet-stream")]), gzip), "an archive");
        assert!(!is_packed(&headers(&[]), gzip));
    }
}
