use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use crate::control_plane::{ControlPlane, SOON, ca, get, token};

pub type Link = WebSocketStream<TlsStream<TcpStream>>;

pub async fn dial(server: &ControlPlane, ca: &str, token: &str) -> Link {
    let mut request = "wss://localhost/api/v1/clusters/agent/ws".into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    tokio_tungstenite::client_async(request, server.connect(ca).await.unwrap()).await.unwrap().0
}

pub async fn say(link: &mut Link, kind: &str, payload: Value) {
    let mut message = serde_json::Map::new();
    message.insert("type".to_owned(), kind.into());
    message.insert("payload".to_owned(), payload);
    message.insert("timestamp".to_owned(), "2026-01-01T00:00:00Z".into());
    link.send(Message::text(Value::Object(message).to_string())).await.unwrap();
}

/// The payload of the next message of this type.
pub async fn hear(link: &mut Link, kind: &str) -> Value {
    let heard = timeout(SOON, async {
        loop {
            let mut message = next(link).await;
            if message["type"] == kind {
                return message["payload"].take();
            }
        }
    });
    heard.await.unwrap_or_else(|_| panic!("no {kind}"))
}

/// The next message.
pub async fn next(link: &mut Link) -> Value {
    loop {
        if let Message::Text(text) = link.next().await.expect("the link ends").unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

/// What the first cluster of the list looks like once it is `wanted`.
pub async fn cluster(server: &ControlPlane, ca: &str, user: &str, wanted: fn(&Value) -> bool) -> Value {
    let mut connection = server.connect(ca).await.unwrap();
    let mut last = Value::Null;
    let seen = timeout(SOON, async {
        loop {
            let list: Value = serde_json::from_str(&get(&mut connection, "/api/v1/clusters", user).await.1).unwrap();
            last = list["clusters"][0].clone();
            if wanted(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    seen.await.unwrap_or_else(|_| panic!("it is {last}"));
    last
}

#[tokio::test]
async fn an_agent_with_another_name_than_its_token_is_told_the_tokens_and_reported() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let mut server = ControlPlane::start(data, &[]).await;
    let secret = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    let mut link = dial(&server, &ca(data), &secret).await;
    say(&mut link, "register", serde_json::from_str(r#"{"agent_id": "a", "name": "staging"}"#).unwrap()).await;
    assert_eq!(hear(&mut link, "register_success").await["name"], "prod");
    let said = server.says("another name than its token").await;
    assert_eq!((&said["level"], &said["cluster"], &said["name"]), (&"WARN".into(), &"prod".into(), &"staging".into()));
}

#[tokio::test]
async fn what_a_heartbeat_leaves_out_is_not_shown_as_a_number() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = ControlPlane::start(data, &[]).await;
    let (ca, user) = (ca(data), token(data, &["create", "--user", "ana"]).await);
    let secret = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    let mut link = dial(&server, &ca, &secret).await;
    say(&mut link, "register", serde_json::from_str(r#"{"agent_id": "a"}"#).unwrap()).await;
    let heartbeat = r#"{"cluster_id": "c", "agent_id": "a", "metadata": {"k8s_version": "v1.36.3", "k8s_pods": 0}}"#;
    say(&mut link, "heartbeat", serde_json::from_str(heartbeat).unwrap()).await;
    let shown = cluster(&server, &ca, &user, |cluster| !cluster["heartbeat"].is_null()).await;
    assert_eq!((shown["heartbeat"].get("k8s_nodes"), &shown["heartbeat"]["k8s_pods"]), (None, &0.into()), "{shown}");
}

#[tokio::test]
async fn a_revoked_token_ends_its_agents_link() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = ControlPlane::start(data, &[]).await;
    let secret = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    let mut link = dial(&server, &ca(data), &secret).await;
    say(&mut link, "register", serde_json::from_str(r#"{"agent_id": "a", "capabilities": ["streams/2"]}"#).unwrap())
        .await;
    hear(&mut link, "register_success").await;
    token(data, &["revoke", &secret]).await;
    let closed = timeout(SOON, async {
        loop {
            if let Message::Close(frame) = link.next().await.expect("it ends without a word").unwrap() {
                return frame.expect("no reason");
            }
        }
    });
    let frame = closed.await.expect("the link stays up");
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1008, "token revoked"));
}
