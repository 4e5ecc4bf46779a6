//! Text messages, in either direction.

use super::kind_of;
use bytes::Bytes;
use jiff::Timestamp;
use protocol::{
    AgentMessage, ControlMessage, Envelope, ParseError, RequestId, endpoint, mask_json,
    message::proxied::{Headers, ProxyCommand, ProxyReply},
};

/// Names of types and fields.
pub(super) const WORDS: [&str; 48] = [
    "type",
    "request_id",
    "payload",
    "timestamp",
    "register",
    "register_success",
    "register_in_progress",
    "heartbeat",
    "heartbeat_ack",
    "gateway_hello",
    "gateway_hello_ack",
    "ping",
    "pong",
    "error",
    "go_away",
    "token_refresh",
    "token_refresh_ack",
    "config_push",
    "config_ack",
    "proxy_request",
    "proxy_response",
    "proxy_response_header",
    "proxy_response_chunk",
    "proxy_response_end",
    "proxy_response_abort",
    "proxy_websocket_start",
    "proxy_websocket_data",
    "tcp_tunnel_data",
    "udp_tunnel_data",
    "protocol_fallback",
    "agent_id",
    "cluster_id",
    "cluster_uuid",
    "cluster",
    "data",
    "token",
    "expires_at",
    "capabilities",
    "headers",
    "body",
    "body_encoding",
    "base64",
    "gzip",
    "head_data",
    "timeout",
    "deadline",
    "gateway_ws_url",
    "metadata",
];

pub(super) fn agent(input: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(input);
    let (request_id, message) = match AgentMessage::parse(&text) {
        Ok(parsed) => parsed,
        Err(error) => return refused(&text, &error),
    };
    let unknown = matches!(message, AgentMessage::Unknown { .. });
    let mut said = if unknown { "unknown" } else { message.kind() }.to_owned();
    if let AgentMessage::Proxy(reply) = &message {
        said.push_str(&of_reply(reply));
    }
    let frame = Bytes::copy_from_slice(input);
    if let Ok((_, head, body)) = ProxyReply::binary_response(&frame) {
        bound("a binary response's body", body.len(), input.len())?;
        said.push_str(&headers(&head.headers));
    }
    let again = message.encode(request_id.as_deref());
    let (same_id, read) =
        AgentMessage::parse(&again).map_err(|error| format!("what it was read as cannot be read: {error}: {again}"))?;
    same(message.kind(), read.kind(), request_id.as_ref(), same_id.as_ref())?;
    Ok(said)
}

pub(super) fn control(input: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(input);
    let (request_id, message) = match ControlMessage::parse(&text) {
        Ok(parsed) => parsed,
        Err(error) => return refused(&text, &error),
    };
    let unknown = matches!(message, ControlMessage::Unknown { .. });
    let mut said = if unknown { "unknown" } else { message.kind() }.to_owned();
    match &message {
        ControlMessage::RegisterSuccess(success) => {
            let ids = (success.cluster_id(), success.gateway_cluster());
            said.push_str(&format!(" {} {}", ids.0.is_ok(), ids.1.is_ok()));
            if let (Ok(id), Some(url)) = (&ids.1, &success.gateway_ws_url) {
                let uri: Result<http::Uri, _> = endpoint::with_cluster(url, id).parse();
                if let Ok(uri) = uri {
                    let path = endpoint::gateway_path(&uri, id, "1.0");
                    said.push_str(if path.contains(id.as_str()) { " named" } else { " unnamed" });
                }
            }
            if let Some(token) = &success.token
                && token.expose().len() > 3
                && format!("{success:?}").contains(&format!("{:?}", token.expose()))
            {
                return Err("its token shows in what is logged".to_owned());
            }
        }
        ControlMessage::Error(report) => said.push_str(&format!(" {}", report.asks_for_registration())),
        ControlMessage::ConfigPush(config) => {
            said.push_str(&config.check().map_or_else(kind_of, |()| " good".to_owned()));
        }
        ControlMessage::Proxy(command) => said.push_str(&of_command(command)),
        _ => {}
    }
    let frame = Bytes::copy_from_slice(input);
    if let Ok((_, body)) = ProxyCommand::binary_body(&frame) {
        bound("a binary body", body.len(), input.len())?;
    }
    let again = message.encode(request_id.as_deref());
    let (same_id, read) = ControlMessage::parse(&again)
        .map_err(|error| format!("what it was read as cannot be read: {error}: {again}"))?;
    same(message.kind(), read.kind(), request_id.as_ref(), same_id.as_ref())?;
    Ok(said)
}

/// A message that cannot be read: what is said of it is short, and masked text is no longer than that.
fn refused(text: &str, error: &ParseError) -> Result<String, String> {
    bound("an error's text", error.to_string().len(), 8 * 1024)?;
    mask_json(text);
    if let Ok(envelope) = Envelope::parse(text) {
        bound("a payload", envelope.payload_text().len(), text.len().max(2))?;
    }
    let (kind, source) = match error {
        ParseError::Envelope { source, .. } => ("", source),
        ParseError::Payload { kind, source } => (*kind, source),
    };
    Ok(format!("{kind} {}", kind_of(source)))
}

fn of_reply(reply: &ProxyReply) -> String {
    match reply {
        ProxyReply::Whole(whole) => {
            format!(" {}{}", whole.bytes().map_or_else(kind_of, |_| "body".to_owned()), headers(&whole.headers))
        }
        ProxyReply::Head(head) => headers(&head.headers),
        ProxyReply::WebSocketData(data) => data.parts().map_or_else(kind_of, |(opcode, _)| format!(" {opcode:?}")),
        _ => String::new(),
    }
}

fn of_command(command: &ProxyCommand) -> String {
    match command {
        ProxyCommand::Request(request) => format!(
            " {} {} {} {}{}",
            request.body().map_or_else(kind_of, |_| "body".to_owned()),
            request.head_data().map_or_else(kind_of, |_| "head".to_owned()),
            request.time_left(Timestamp::now()).is_some(),
            request.wants_websocket(),
            headers(&request.headers)
        ),
        ProxyCommand::WebSocketStart(start) => headers(&start.headers),
        ProxyCommand::WebSocketData(data) => data.parts().map_or_else(kind_of, |(opcode, _)| format!(" {opcode:?}")),
        _ => String::new(),
    }
}

fn headers(headers: &Headers) -> String {
    let named = headers.get("content-type").is_some();
    headers.to_map().map_or_else(kind_of, |map| format!(" {} {named}", map.len().min(3)))
}

fn bound(what: &str, is: usize, most: usize) -> Result<(), String> {
    if is <= most { Ok(()) } else { Err(format!("{what} has {is} bytes, of at most {most}")) }
}

fn same(kind: &str, read: &str, id: Option<&RequestId>, read_id: Option<&RequestId>) -> Result<(), String> {
    if kind == read && id == read_id {
        Ok(())
    } else {
        Err(format!("{kind:?} with the id {id:?} is written as {read:?} with {read_id:?}"))
    }
}
