//! Web apps of a cluster whose agent takes no streams.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::agent::Stage;
use crate::control_plane::{SOON, ask};

async fn answer(client: &mut TcpStream) -> String {
    let mut answer = String::new();
    timeout(SOON, client.read_to_string(&mut answer)).await.expect("no answer").unwrap();
    answer
}

#[tokio::test]
async fn a_request_for_an_app_names_its_service_and_keeps_its_credentials() {
    let mut stage = Stage::set(&[("PIPEOPS_GATEWAY_HTTP_LISTEN", "127.0.0.1:0")]).await;
    let http = stage.server.says("web apps are served over HTTP").await["address"].as_str().unwrap().to_owned();
    let mut agent = stage.agent_without_yamux().await;
    let route = json!({"hostname": "a.example.com", "namespace": "shop", "service_name": "web", "service_port": 8080});
    let mut api = stage.server.connect(&stage.ca).await.unwrap();
    let made = ask(&mut api, "POST", "/api/v1/gateway/routes/register", &stage.agent_token, &route).await;
    assert_eq!(made.0, 200, "{made:?}");

    let mut client = TcpStream::connect(&http).await.unwrap();
    let request = "POST /login?next=x HTTP/1.1\r\nhost: a.example.com\r\nauthorization: Basic eA==\r\n\
                   sec-websocket-version: 13\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody";
    client.write_all(request.as_bytes()).await.unwrap();
    let asked = agent.hear("proxy_request").await;
    let fields = ["method", "path", "query", "namespace", "service_name", "service_port", "scheme"];
    let said: Vec<_> = fields.map(|field| asked.payload[field].clone()).into();
    assert_eq!(json!(said), json!(["POST", "/login", "next=x", "shop", "web", 8080, "http"]));
    assert_eq!(STANDARD.decode(asked.payload["body"].as_str().unwrap()).unwrap(), b"body");
    assert_eq!(
        asked.payload["headers"],
        json!({
            "Host": ["a.example.com"], "Authorization": ["Basic eA=="], "Forwarded": ["for=127.0.0.1;host=\"a.example.com\";proto=http"],
            "X-Forwarded-For": ["127.0.0.1"], "X-Forwarded-Host": ["a.example.com"],
            "X-Forwarded-Port": ["80"], "X-Forwarded-Proto": ["http"],
        })
    );
    // Whatever an app says is its own, and not the API server's.
    let refused =
        json!({"status": 401, "headers": {"X-App": ["1"]}, "body": STANDARD.encode("who?"), "encoding": "base64"});
    agent.say("proxy_response", Some(&asked.id), refused).await;
    let said = answer(&mut client).await;
    assert!(said.starts_with("HTTP/1.1 401") && said.contains("x-app: 1") && said.ends_with("who?"), "{said}");

    let mut client = TcpStream::connect(&http).await.unwrap();
    let upgrade = "GET / HTTP/1.1\r\nhost: a.example.com\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n";
    client.write_all(upgrade.as_bytes()).await.unwrap();
    let said = answer(&mut client).await;
    assert!(said.starts_with("HTTP/1.1 501") && said.ends_with("a.example.com gives no answer.\n"), "{said}");
}
