//! An agent whose link carries streams, played step by step.

use std::path::Path;

use mux::{ControlFrame, Incoming, Link, MuxStream, Role, Timed, Windows};
use protocol::StreamHeader;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::control_plane::{ControlPlane, SOON, ca};

/// An agent whose link carries streams.
pub struct Agent {
    link: Link,
    incoming: Incoming,
    _driving: JoinSet<()>,
}

impl Agent {
    pub async fn connect(server: &ControlPlane, data: &Path, secret: &str, capabilities: &[&str]) -> Self {
        let mut request = "wss://localhost/api/v1/clusters/agent/ws".into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {secret}").parse().unwrap());
        let stream = Timed::new(server.connect(&ca(data)).await.unwrap());
        let socket = tokio_tungstenite::client_async(request, stream).await.unwrap().0;
        let (link, incoming, driver) = mux::start(socket, Role::Agent, mux::Config::default());
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            driver.await;
        });
        let mut agent = Self { link, incoming, _driving: driving };
        agent.say("register", json!({"agent_id": "a", "capabilities": capabilities, "k8s_service_token": "t"})).await;
        agent.hear("gateway_hello").await;
        agent.link.start_streams(if capabilities.is_empty() { Windows::Fixed } else { Windows::Tuned });
        agent.say("gateway_hello_ack", json!({"use_yamux": true})).await;
        agent.say("ping", json!({})).await;
        agent.hear("pong").await;
        agent
    }

    pub async fn say(&self, kind: &str, payload: Value) {
        let message = json!({"type": kind, "payload": payload, "timestamp": "2026-01-01T00:00:00Z"});
        self.link.send(message.to_string()).await.unwrap();
    }

    pub async fn hear(&mut self, kind: &str) -> Value {
        let heard = timeout(SOON, async {
            loop {
                let frame = self.incoming.control.recv().await.expect("the link ends");
                let Some(text) = ControlFrame::as_text(&frame) else { continue };
                let mut message: Value = serde_json::from_str(text).unwrap();
                if message["type"] == kind {
                    return message["payload"].take();
                }
            }
        });
        heard.await.unwrap_or_else(|_| panic!("no {kind}"))
    }

    /// The next stream of the control plane, and its header.
    pub async fn stream(&mut self) -> (StreamHeader, MuxStream) {
        timeout(SOON, self.next()).await.expect("no stream").unwrap()
    }

    /// The same, however long it takes; none once the link has ended.
    pub async fn next(&mut self) -> Option<(StreamHeader, MuxStream)> {
        let mut stream = self.incoming.streams.recv().await?;
        let mut bytes = Vec::new();
        loop {
            // Byte by byte: what follows the header stays.
            bytes.push(timeout(SOON, stream.read_u8()).await.expect("no header").unwrap());
            if let Some((header, _)) = StreamHeader::decode(&bytes).unwrap() {
                return Some((header, stream));
            }
        }
    }
}
