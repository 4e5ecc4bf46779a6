//! The part of such an agent, played message by message.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use crate::control_plane::{ControlPlane, SOON, ca, token};

/// The ServiceAccount token that it registers with.
pub const SERVICE_ACCOUNT: &str = "eyJhbGciOiJSUzI1NiJ9.agent.sig";

pub struct Agent {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    /// What the control plane said at the registration.
    pub registered: Value,
}

/// A message of the control plane.
#[derive(Debug)]
pub struct Heard {
    pub kind: String,
    pub id: String,
    pub payload: Value,
}

/// A control plane with an agent for cluster `prod`, and a user's token.
pub struct Stage {
    pub server: ControlPlane,
    pub ca: String,
    pub user: String,
    pub agent_token: String,
    pub place: tempfile::TempDir,
}

impl Stage {
    pub async fn set(settings: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, Path::new(*value))).collect();
        let server = ControlPlane::start(place.path(), &settings).await;
        let user = token(place.path(), &["create", "--user", "ana", "--group", "devs", "--group", "on call"]).await;
        let agent_token = token(place.path(), &["create", "--agent", "--cluster", "prod"]).await;
        Self { ca: ca(place.path()), server, user, agent_token, place }
    }

    /// One that has registered and agreed to yamux.
    pub async fn agent(&self) -> Agent {
        let mut agent = Agent::dial(self).await;
        agent.register(Some(SERVICE_ACCOUNT)).await;
        agent.say("gateway_hello_ack", None, json!({"use_yamux": true})).await;
        agent
    }

    /// One that takes no notice of the offer, so that its binary messages are no yamux.
    pub async fn agent_without_yamux(&self) -> Agent {
        let mut agent = Agent::dial(self).await;
        agent.register(Some(SERVICE_ACCOUNT)).await;
        agent
    }
}

impl Agent {
    pub async fn dial(stage: &Stage) -> Self {
        let mut request = "wss://localhost/api/v1/clusters/agent/ws".into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {}", stage.agent_token).parse().unwrap());
        let stream = stage.server.connect(&stage.ca).await.unwrap();
        let socket = tokio_tungstenite::client_async(request, stream).await.unwrap().0;
        Self { socket, registered: Value::Null }
    }

    /// As the existing agent does; up to the offer of yamux.
    pub async fn register(&mut self, service_account: Option<&str>) {
        let id = "req_1795242658101124931_agent-a24174672b98d81c";
        let mut payload = json!({
            "agent_id": "agent-a24174672b98d81c", "agent_version": "1.0.0-dev", "cloud_provider": "bare-metal",
            "features": {
                "supports_binary_protocol": true, "supports_compression": true, "supports_gateway": true,
                "supports_response_streaming": true, "supports_streaming": true, "supports_websocket_proxy": true
            },
            "hostname": "ga", "k8s_version": "v1.36.3",
            "labels": {"agent.pipeops.io/version": "1.0.0-dev", "hostname": "ga"},
            "metadata": {
                "agent_mode": "vm-agent", "registration_mode": "fresh", "registration_timestamp": "2026-11-21T06:30:58Z"
            },
            "name": "prod", "region": "unknown-country", "server_ip": "10.244.0.36",
            "server_specs": {"cpu_cores": 2, "memory_gb": 23, "disk_gb": 251, "os": "linux"},
            "tunnel_port_config": {"kubernetes_api": 6443, "kubelet": 10250, "agent_http": 8080}
        });
        if let Some(service_account) = service_account {
            payload["k8s_service_token"] = service_account.into();
        }
        self.say("register", Some(id), payload).await;
        let registered = self.hear("register_success").await;
        assert_eq!(registered.id, id);
        self.registered = registered.payload;
        assert_eq!(self.hear("gateway_hello").await.payload["use_yamux"], true);
    }

    pub async fn say(&mut self, kind: &str, id: Option<&str>, payload: Value) {
        let mut message = json!({"type": kind, "payload": payload, "timestamp": "2026-11-21T06:31:00.102286079Z"});
        if let Some(id) = id {
            message["request_id"] = id.into();
        }
        self.say_text(message.to_string()).await;
    }

    pub async fn say_text(&mut self, text: String) {
        timeout(SOON, self.socket.send(Message::text(text))).await.expect("the link takes nothing").unwrap();
    }

    pub async fn say_binary(&mut self, bytes: Vec<u8>) {
        timeout(SOON, self.socket.send(Message::binary(bytes))).await.expect("the link takes nothing").unwrap();
    }

    /// The next message, whatever it is.
    pub async fn next(&mut self) -> Heard {
        let next = timeout(SOON, async {
            loop {
                match self.socket.next().await.expect("the link ends").unwrap() {
                    Message::Text(text) => break serde_json::from_str::<Value>(&text).unwrap(),
                    Message::Close(frame) => panic!("the link is closed: {frame:?}"),
                    _ => {}
                }
            }
        });
        let mut message = next.await.expect("no message");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Heard { kind: text(&message["type"]), id: text(&message["request_id"]), payload: message["payload"].take() }
    }

    /// The next message, which has to be of this type.
    pub async fn hear(&mut self, kind: &str) -> Heard {
        let heard = self.next().await;
        assert_eq!(heard.kind, kind, "{heard:?}");
        heard
    }

    /// The next binary message, in which texts may go by.
    pub async fn hear_binary(&mut self) -> Vec<u8> {
        let next = timeout(SOON, async {
            loop {
                if let Message::Binary(bytes) = self.socket.next().await.expect("the link ends").unwrap() {
                    return bytes.to_vec();
                }
            }
        });
        next.await.expect("no binary message")
    }

    /// The code and reason with which the link ends.
    pub async fn closed(&mut self) -> (u16, String) {
        let closed = timeout(SOON, async {
            loop {
                if let Message::Close(frame) = self.socket.next().await.expect("it ends without a word").unwrap() {
                    let frame = frame.expect("no reason");
                    return (frame.code.into(), frame.reason.to_string());
                }
            }
        });
        closed.await.expect("the link stays up")
    }

    /// Answers a request as a whole.
    pub async fn answer(&mut self, id: &str, body: &str) {
        self.say("proxy_response", Some(id), json!({"status": 200, "headers": {}, "body": body})).await;
    }

    pub async fn head(&mut self, id: &str, headers: Value) {
        self.say("proxy_response_header", Some(id), json!({"status": 200, "headers": headers})).await;
    }

    pub async fn chunk(&mut self, id: &str, bytes: &[u8]) {
        let payload = json!({"data": STANDARD.encode(bytes), "encoding": "base64", "size": bytes.len()});
        self.say("proxy_response_chunk", Some(id), payload).await;
    }

    pub async fn end(&mut self, id: &str) {
        self.say("proxy_response_end", Some(id), json!({})).await;
    }

    /// A message of a WebSocket.
    pub async fn frame(&mut self, id: &str, opcode: u8, bytes: &[u8]) {
        let data = STANDARD.encode([&[opcode], bytes].concat());
        self.say("proxy_websocket_data", Some(id), json!({"stream_id": id, "data": data})).await;
    }

    /// The next message of a client's WebSocket: opcode and bytes.
    pub async fn hear_frame(&mut self, id: &str) -> (u8, Vec<u8>) {
        let heard = self.hear("proxy_websocket_data").await;
        assert_eq!((&heard.payload["stream_id"], heard.id.as_str()), (&Value::from(id), id));
        let data = STANDARD.decode(heard.payload["data"].as_str().unwrap()).unwrap();
        (data[0], data[1..].to_vec())
    }

    /// The link works: what is sent over it now is answered.
    pub async fn is_served(&mut self) {
        self.say("ping", Some("still there"), json!({})).await;
        let pong = self.hear("pong").await;
        assert!(pong.id == "still there" && pong.payload["timestamp"].is_string(), "{pong:?}");
    }
}

/// A whole answer as a binary message.
pub fn binary(id: &str, status: u32, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_be_bytes();
    let id_length = u16::try_from(id.len()).unwrap().to_be_bytes();
    let head = [&id_length, id.as_bytes(), &status.to_be_bytes(), &length(headers.as_bytes())].concat();
    [&head, headers.as_bytes(), body].concat()
}
