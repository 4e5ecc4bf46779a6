//! A WebSocket that came as messages: to the API server (exec, attach, port-forward, watches) or to an application.
//!
//! Messages go both ways in order. Of the API server's, binary ones are untouched: the first byte is the channel, and the
//! status of a command comes on channel 3. Text from the client is its keyboard, as the existing agent has it: where the
//! channels are in use it becomes channel 0.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bus::BusStream;
use bytes::{BufMut as _, Bytes, BytesMut};
use exchange::{Reply, Upgraded};
use futures::{SinkExt as _, StreamExt as _};
use http::header::{self, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use mux::Budget;
use protocol::message::proxied::{Headers, Opcode, ProxyReply, WholeResponse};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, coding::CloseCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message, Utf8Bytes, error::ProtocolError};

use super::failure::Failure;
use super::inbox::Outlet;
use super::reply::{Form, Replies};
use super::request::{Mode, answer, full};
use super::route::Route;
use super::upstream::Upstream;
use crate::metrics::{Dropped, OpenWebSocket, WebSocketMetrics};

/// Largest message that is taken from the cluster; the existing agent's limit.
const MAX_MESSAGE: usize = 1 << 20;
/// A message of more bytes is counted among those that wait.
const LARGE: usize = 64 * 1024;
/// Once the client is gone, for what it has sent before to be taken, and for the other side's farewell.
const CLOSING: Duration = Duration::from_secs(5);
/// For the API server to say why it opens no WebSocket.
const REASON: Duration = Duration::from_secs(2);
/// Of that, what is read, in bytes, and what is repeated, in characters.
const MAX_ANSWER: usize = 16 * 1024;
const MAX_REASON: usize = 1024;

/// What is offered for a command or a port-forward when the client says nothing: with an exit status, and without half-close.
const CHANNELS: &str = "v5.channel.k8s.io, v4.channel.k8s.io";

/// A message from the client.
#[derive(Debug)]
pub struct FromClient {
    pub opcode: Opcode,
    pub bytes: Bytes,
}

/// A WebSocket to be opened.
#[derive(Debug)]
pub struct Opening {
    pub route: Route,
    pub request: Request<()>,
    /// Subprotocols beside those of the headers, separated by commas.
    pub protocols: String,
    /// What the client has sent behind its handshake, as it came.
    pub head_data: Bytes,
    /// For the handshake.
    pub limit: Duration,
    /// Of the answer, if it is no WebSocket.
    pub mode: Mode,
}

/// Opens the WebSocket and carries it to its end.
pub async fn run(
    upstream: &Upstream,
    opening: Opening,
    mut outlet: Outlet<FromClient>,
    budget: &Arc<Budget>,
    replies: &Replies,
    metrics: &Arc<WebSocketMetrics>,
) -> Result<(), Failure> {
    let Opening { route, request, protocols, head_data, limit, mode } = opening;
    let application = matches!(route, Route::Service(_));
    let (request, key) = handshake(request, &protocols, application);
    let left = outlet.end();
    let asked = tokio::select! {
        asked = timeout(limit, upstream.send(request.map(|()| Empty::<Bytes>::new()), &route, replies.id())) => asked,
        // Whoever closes before it is open does not wait for long.
        () = overdue(left) => return Ok(()),
    };
    let late = |_| Failure::said(format!("no answer from {} within {:.1} s", route.name(), limit.as_secs_f32()));
    let (response, mut upgraded) = match asked.map_err(late)?? {
        Reply::Upgraded(response, upgraded) => (response, upgraded),
        Reply::Response(response) if application => return answer(response, &route, mode, budget, replies).await,
        Reply::Response(response) => return Err(refused(response, &route).await),
    };
    if !accepts(&response, &key) {
        return Err(Failure::said(format!("{} switched protocols, but not to this WebSocket", route.name())));
    }
    replies.becomes(Form::Open);
    let open = metrics.opened(match &route {
        Route::Kube => None,
        Route::Service(service) => Some(&service.target),
    });
    if application {
        let whole =
            WholeResponse { status: 101, headers: Headers::from(response.headers()), body: None, encoding: None };
        replies.send(ProxyReply::Whole(Box::new(whole))).await?;
    }
    let broken = |error: std::io::Error| Failure::said(format!("the WebSocket to {} broke: {error}", route.name()));
    if !head_data.is_empty() {
        upgraded.io.write_all(&head_data).await.map_err(&broken)?;
        upgraded.io.flush().await.map_err(&broken)?;
    }
    carry(upgraded, uses_channels(&response), &route, &mut outlet, budget, replies, &open).await
}

async fn overdue(left: impl Future<Output = ()>) {
    left.await;
    sleep(CLOSING).await;
}

/// The request with what makes it a WebSocket's, and its key.
fn handshake(mut request: Request<()>, protocols: &str, application: bool) -> (Request<()>, HeaderValue) {
    *request.method_mut() = Method::GET;
    let path = request.uri().path();
    let commands = ["/exec", "/attach", "/portforward"].into_iter().any(|end| path.ends_with(end));
    let headers = request.headers_mut();
    // No extension is spoken here.
    for name in [header::SEC_WEBSOCKET_EXTENSIONS, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    let given = headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    let given = given.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut asked: Vec<&str> = protocols.split(',').chain(given.split(',')).map(str::trim).collect();
    let mut seen = Vec::new();
    asked.retain(|name| {
        !name.is_empty() && !seen.contains(name) && {
            seen.push(*name);
            true
        }
    });
    let asked = if asked.is_empty() && commands && !application { CHANNELS.to_owned() } else { asked.join(", ") };
    if let Ok(value) = HeaderValue::try_from(asked)
        && !value.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    // The client's own, so that it may check the answer by it.
    let key = headers.get(header::SEC_WEBSOCKET_KEY).cloned().unwrap_or_else(|| {
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        HeaderValue::try_from(key).unwrap_or_else(|_| HeaderValue::from_static(""))
    });
    headers.insert(header::SEC_WEBSOCKET_KEY, key.clone());
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    (request, key)
}

fn accepts(response: &Response<()>, key: &HeaderValue) -> bool {
    let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    accept.is_some_and(|accept| accept.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes())
}

/// Whether the first byte of each binary message is a channel.
fn uses_channels(response: &Response<()>) -> bool {
    let protocol = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    protocol.is_some_and(|name| name.ends_with("channel.k8s.io") && !name.starts_with("base64."))
}

/// What the API server says instead, as far as it says it soon: an answer may be one without an end.
async fn refused(response: Response<exchange::Body<BusStream>>, route: &Route) -> Failure {
    let status = response.status();
    let mut body = response.into_body();
    let mut text = Vec::new();
    let reading = async {
        while text.len() < MAX_ANSWER
            && let Some(Ok(frame)) = body.frame().await
        {
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    };
    let _late = timeout(REASON, reading).await;
    let said = String::from_utf8_lossy(&text);
    // What it says is a Status; the message in it is for people.
    let message =
        serde_json::from_str::<protocol::Status>(&said).map_or(said.trim().to_owned(), |status| status.message);
    let message: String = message.chars().take(MAX_REASON).collect();
    Failure::said(format!("{} opens no WebSocket here: {status}: {message}", route.name()))
}

/// Why the client's messages are not carried on.
enum Unwritten {
    /// The cluster's side takes no more; it may have something to say about that.
    Refused,
    NotText,
}

async fn carry(
    upgraded: Upgraded<BusStream>,
    channels: bool,
    route: &Route,
    outlet: &mut Outlet<FromClient>,
    budget: &Arc<Budget>,
    replies: &Replies,
    open: &OpenWebSocket,
) -> Result<(), Failure> {
    let config = WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let Upgraded { io, read_ahead } = upgraded;
    let socket = WebSocketStream::from_partially_read(io, read_ahead.to_vec(), Role::Client, Some(config)).await;
    let (mut sink, mut stream) = socket.split();
    // The client is gone: nobody is told anything any more.
    let gone = AtomicBool::new(false);
    let overdue = overdue(outlet.end());
    let writing = async {
        while let Some(message) = outlet.next().await {
            let FromClient { opcode, bytes } = if channels { on_stdin(message) } else { message };
            let Some(message) = to_cluster(opcode, bytes.clone()) else {
                open.dropped(Dropped::Malformed);
                return Err(Unwritten::NotText);
            };
            if sink.send(message).await.is_err() {
                open.dropped(Dropped::Late);
                return Err(Unwritten::Refused);
            }
            open.sent(opcode, &bytes);
        }
        gone.store(true, Relaxed);
        if sink.send(Message::Close(None)).await.is_ok() {
            open.sent(Opcode::Close, &[]);
        }
        Ok(())
    };
    let reading = async {
        loop {
            let message = match stream.next().await {
                None | Some(Err(SocketError::ConnectionClosed | SocketError::AlreadyClosed)) => return Ok(()),
                Some(Ok(message)) => message,
                Some(Err(SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Err(Failure::said(format!("{} ended the WebSocket without a close", route.name())));
                }
                Some(Err(error)) => {
                    let error = runtime::error_text(&error);
                    return Err(Failure::said(format!("the WebSocket to {} broke: {error}", route.name())));
                }
            };
            let Some((opcode, bytes)) = from_cluster(message) else { continue };
            open.received(opcode, &bytes);
            if gone.load(Relaxed) {
                open.dropped(Dropped::Late);
                continue;
            }
            // Of many WebSockets that wait for the link, large messages would be more than may wait.
            let held = (bytes.len() > LARGE).then(|| budget.take(bytes.len()));
            if let Some(None) = held {
                open.dropped(Dropped::Full);
                return Err(full());
            }
            replies.websocket(opcode, &bytes).await?;
        }
    };
    let (mut writing, mut reading, mut overdue) =
        (std::pin::pin!(writing), std::pin::pin!(reading), std::pin::pin!(overdue));
    let mut writes = true;
    let ended = loop {
        tokio::select! {
            ended = &mut reading => break ended,
            written = &mut writing, if writes => match written {
                Ok(()) | Err(Unwritten::Refused) => writes = false,
                Err(Unwritten::NotText) => break Err(Failure::said("a text message that is not UTF-8")),
            },
            () = &mut overdue => return Ok(()),
        }
    };
    if gone.load(Relaxed) {
        return Ok(());
    }
    ended?;
    Ok(replies.websocket_close(None).await?)
}

/// Text as what is typed.
fn on_stdin(message: FromClient) -> FromClient {
    let FromClient { opcode: Opcode::Text, bytes } = message else { return message };
    let mut stdin = BytesMut::with_capacity(1 + bytes.len());
    stdin.put_u8(0);
    stdin.put_slice(&bytes);
    FromClient { opcode: Opcode::Binary, bytes: stdin.freeze() }
}

/// None: text that is none.
fn to_cluster(opcode: Opcode, bytes: Bytes) -> Option<Message> {
    Some(match opcode {
        Opcode::Text => Message::Text(Utf8Bytes::try_from(bytes).ok()?),
        Opcode::Binary => Message::Binary(bytes),
        Opcode::Ping => Message::Ping(bytes),
        Opcode::Pong => Message::Pong(bytes),
        Opcode::Close => Message::Close(bytes.split_first_chunk::<2>().map(|(code, reason)| CloseFrame {
            code: CloseCode::from(u16::from_be_bytes(*code)),
            reason: String::from_utf8_lossy(reason).into_owned().into(),
        })),
    })
}

/// None: a part of a message, which a stream of whole ones does not give.
fn from_cluster(message: Message) -> Option<(Opcode, Bytes)> {
    Some(match message {
        Message::Text(text) => (Opcode::Text, text.into()),
        Message::Binary(bytes) => (Opcode::Binary, bytes),
        Message::Ping(bytes) => (Opcode::Ping, bytes),
        Message::Pong(bytes) => (Opcode::Pong, bytes),
        Message::Close(frame) => {
            let payload = frame.map_or_else(Vec::new, |frame| {
                [&u16::from(frame.code).to_be_bytes(), frame.reason.as_bytes()].concat()
            });
            (Opcode::Close, payload.into())
        }
        Message::Frame(_) => return None,
    })
}
