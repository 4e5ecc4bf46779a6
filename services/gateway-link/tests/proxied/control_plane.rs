//! A control plane that knows the published protocol and nothing else: JSON envelopes over a WebSocket, by hand.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::{Settings, agent::Agent};

pub const LIMIT: Duration = Duration::from_secs(20);

/// One link, from its other end. Messages of the link's own, such as heartbeats, are passed over.
pub struct ControlPlane {
    socket: WebSocketStream<TcpStream>,
    /// What came for other exchanges than the one that was looked for.
    kept: Vec<Got>,
    /// What came as binary messages: one yamux session.
    pub yamux: Vec<u8>,
    /// Ends with it.
    pub agent: Agent,
}

/// A message from the agent.
#[derive(Clone)]
pub struct Got {
    pub kind: String,
    pub id: String,
    pub payload: Value,
}

/// A body is not shown as a whole.
impl std::fmt::Debug for Got {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let payload: String = self.payload.to_string().chars().take(400).collect();
        write!(f, "{} {:?} {payload}", self.kind, self.id)
    }
}

impl Got {
    pub fn text(&self, field: &str) -> &str {
        self.payload[field].as_str().unwrap_or_else(|| panic!("no {field} in {self:?}"))
    }

    /// The bytes of a field that is base64.
    pub fn bytes(&self, field: &str) -> Vec<u8> {
        STANDARD.decode(self.text(field)).unwrap()
    }

    pub fn error(&self) -> &str {
        self.text("error")
    }
}

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

impl ControlPlane {
    /// Starts an agent and registers it.
    pub async fn start(
        api_server: std::net::SocketAddr,
        services: &[(&str, std::net::SocketAddr)],
        settings: Settings,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let agent = Agent::start(listener.local_addr().unwrap(), api_server, services, settings).await;
        Self::accept(listener, agent).await
    }

    /// Registers the agent that connects.
    pub async fn accept(listener: TcpListener, agent: Agent) -> Self {
        let (tcp, _) = listener.accept().await.unwrap();
        // What the agent sends is then held back soon, when a test does not read it.
        let config = WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20));
        let socket = tokio_tungstenite::accept_async_with_config(tcp, Some(config)).await.unwrap();
        let mut this = Self { socket, kept: Vec::new(), yamux: Vec::new(), agent };
        let register = this.next("register").await;
        assert_eq!(register.payload["features"]["supports_response_streaming"], Value::Bool(true));
        // No capabilities, and nothing that only ours would say.
        this.send("register_success", &register.id, r#"{"cluster_id":"c-1","name":"default-cluster"}"#).await;
        this
    }

    /// Agrees to yamux. Requests go on as messages all the same.
    pub async fn hello(&mut self) {
        self.send("gateway_hello", "", r#"{"use_yamux":true}"#).await;
        let ack = self.next("gateway_hello_ack").await;
        assert_eq!(ack.payload["use_yamux"], Value::Bool(true));
    }

    pub async fn send(&mut self, kind: &str, id: &str, payload: &str) {
        self.raw(&format!(
            r#"{{"type":"{kind}","request_id":"{id}","payload":{payload},"timestamp":"2026-01-01T00:00:00Z"}}"#
        ))
        .await;
    }

    pub async fn raw(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub async fn binary(&mut self, id: &str, body: &[u8]) {
        let length = u16::try_from(id.len()).unwrap().to_be_bytes();
        let frame = [&length, id.as_bytes(), body].concat();
        self.socket.send(Message::Binary(Bytes::from(frame))).await.unwrap();
    }

    /// A message as some peers send it.
    pub async fn binary_text(&mut self, text: &str) {
        self.socket.send(Message::Binary(Bytes::from(text.to_owned()))).await.unwrap();
    }

    /// A data frame of yamux, by hand. `flags`: 1 opens the stream, 4 ends this direction.
    pub async fn yamux_data(&mut self, stream: u32, flags: u16, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        let frame = [&[0, 0], &flags.to_be_bytes()[..], &stream.to_be_bytes(), &length, data].concat();
        self.socket.send(Message::Binary(Bytes::from(frame))).await.unwrap();
    }

    /// What a stream has brought so far, and whether that is all.
    pub fn yamux_received(&self, stream: u32) -> (Vec<u8>, bool) {
        let (mut rest, mut received, mut ended) = (&self.yamux[..], Vec::new(), false);
        while let Some((head, tail)) = rest.split_first_chunk::<12>() {
            let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
            let length = if head[1] == 0 { word(8) as usize } else { 0 };
            if word(4) == stream {
                received.extend_from_slice(&tail[..length]);
                ended |= head[3] & 4 != 0;
            }
            rest = &tail[length..];
        }
        (received, ended)
    }

    /// A request, its fields as JSON text.
    pub async fn request(&mut self, id: &str, fields: &str) {
        self.send("proxy_request", id, &format!("{{{fields}}}")).await;
    }

    /// A piece of a body.
    pub async fn chunk(&mut self, id: &str, bytes: &[u8]) {
        self.send("proxy_request_chunk", id, &format!(r#"{{"data":"{}"}}"#, base64(bytes))).await;
    }

    /// A message of a WebSocket.
    pub async fn websocket(&mut self, id: &str, opcode: u8, bytes: &[u8]) {
        let data = base64(&[&[opcode], bytes].concat());
        self.send("proxy_websocket_data", id, &format!(r#"{{"stream_id":"{id}","data":"{data}"}}"#)).await;
    }

    /// The next message that is not the link's own.
    pub async fn any(&mut self) -> Got {
        if !self.kept.is_empty() {
            return self.kept.remove(0);
        }
        self.receive(Instant::now() + LIMIT).await
    }

    /// The next message of this type; others wait.
    pub async fn next(&mut self, kind: &str) -> Got {
        self.find(&format!("a {kind}"), |got| got.kind == kind).await
    }

    /// The next message of this exchange; others wait.
    pub async fn of(&mut self, id: &str) -> Got {
        self.find(&format!("a message of {id}"), |got| got.id == id).await
    }

    /// The whole answer of a streamed request.
    pub async fn answer(&mut self, id: &str) -> (Got, Vec<u8>) {
        let head = self.of(id).await;
        assert_eq!(head.kind, "proxy_response_header", "{head:?}");
        let mut body = Vec::new();
        loop {
            let got = self.of(id).await;
            match got.kind.as_str() {
                "proxy_response_chunk" => {
                    let data = got.bytes("data");
                    assert_eq!(got.payload["size"], Value::from(data.len()));
                    assert!(data.len() <= 64 * 1024, "{}", data.len());
                    body.extend_from_slice(&data);
                }
                "proxy_response_end" => return (head, body),
                _ => panic!("{got:?}"),
            }
        }
    }

    /// Whether the agent says nothing about this exchange although it answers a ping that is sent now.
    pub async fn is_silent_about(&mut self, id: &str) -> bool {
        self.ping("silence").await;
        !self.kept.iter().any(|got| got.id == id)
    }

    /// What came so far and was not asked for is of no interest.
    pub fn forget(&mut self) {
        self.kept.clear();
    }

    /// The next message of this exchange, which is there afterwards too.
    pub async fn peek(&mut self, id: &str) -> Got {
        let got = self.of(id).await;
        self.kept.insert(0, got.clone());
        got
    }

    /// A message of this exchange that has come already.
    pub fn waiting_of(&mut self, id: &str) -> Option<Got> {
        let at = self.kept.iter().position(|got| got.id == id)?;
        Some(self.kept.remove(at))
    }

    /// Waits until this exchange is over, so that its name can be used again.
    pub async fn gone(&mut self, id: &str) {
        let begun = Instant::now();
        loop {
            self.chunk(id, b"").await;
            self.send("proxy_cancel", id, "{}").await;
            self.request(id, r#""path":"/nowhere""#).await;
            let got = self.find("an end", |got| got.id == id && got.kind == "proxy_error").await;
            if got.error().contains("no route") {
                self.kept.retain(|got| got.id != id);
                return;
            }
            assert!(begun.elapsed() < LIMIT, "{got:?}");
        }
    }

    /// A ping and its pong.
    pub async fn ping(&mut self, id: &str) {
        self.send("ping", id, "{}").await;
        let pong = self.find("a pong", |got| got.kind == "pong" && got.id == id).await;
        assert!(pong.payload["timestamp"].is_string());
    }

    async fn find(&mut self, what: &str, wanted: impl Fn(&Got) -> bool) -> Got {
        if let Some(at) = self.kept.iter().position(&wanted) {
            return self.kept.remove(at);
        }
        let deadline = Instant::now() + LIMIT;
        loop {
            if Instant::now() >= deadline {
                panic!("no {what}; there were {:?}", self.kept);
            }
            let got = self.receive(deadline).await;
            if wanted(&got) {
                return got;
            }
            self.kept.push(got);
        }
    }

    async fn receive(&mut self, deadline: Instant) -> Got {
        loop {
            let message = match timeout_at(deadline, self.socket.next()).await {
                Ok(message) => message.expect("the agent closed the link").unwrap(),
                Err(_) => panic!("nothing within {LIMIT:?}; there were {:?}", self.kept),
            };
            let text = match message {
                Message::Text(text) => text,
                Message::Binary(bytes) => {
                    self.yamux.extend_from_slice(&bytes);
                    continue;
                }
                _ => continue,
            };
            let value: Value = serde_json::from_str(&text).unwrap();
            let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            let got = Got { kind: field("type"), id: field("request_id"), payload: value["payload"].clone() };
            if got.kind != "heartbeat" {
                return got;
            }
        }
    }
}
