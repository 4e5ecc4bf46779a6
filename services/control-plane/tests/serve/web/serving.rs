use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::app::App;
use super::client::Client;
use super::{Stage, ingress};
use crate::control_plane::SOON;

#[tokio::test]
async fn hostname_and_path_lead_to_a_service_that_is_told_of_the_client() {
    let stage = Stage::set(&[]).await;
    let mut app = App::of(&stage).await;
    let routes = [
        ingress("shop.example.com", false, &[("/", "web"), ("/api", "api")]),
        ingress("*.example.com", false, &[("/", "any")]),
    ];
    let answer = stage.sync(&routes).await;
    assert_eq!(answer["accepted"][1]["url"], format!("http://shop.example.com:{}/api", stage.http.port()));
    let mut client = Client::http(stage.http).await;
    for (host, path, target) in [
        ("shop.example.com", "/", "shop/web:80"),
        ("SHOP.example.com.:8080", "/api/v1?a=b", "shop/api:80"),
        ("blog.example.com", "/api", "shop/any:80"),
    ] {
        let headers = [
            ("x-forwarded-for", "9.9.9.9"),
            ("forwarded", "for=9.9.9.9"),
            ("x-pipeops-user", "root"),
            ("impersonate-user", "mine"),
            ("authorization", "Basic eA=="),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ];
        let seen = client.get(host, path, &headers).await.json();
        let port = if host.contains(':') { "8080" } else { "80" };
        assert_eq!((&seen["target"], &seen["query"]), (&json!(target), &json!(path.split_once('?').map(|p| p.1))));
        assert_eq!(
            seen["headers"],
            json!({
                "host": host, "authorization": "Basic eA==", "impersonate-user": "mine",
                "x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http", "x-forwarded-host": host,
                "x-forwarded-port": port, "forwarded": format!("for=127.0.0.1;host=\"{host}\";proto=http"),
            })
        );
    }
    // One stream for each Service, however many requests.
    client.get("shop.example.com", "/", &[]).await;
    let mut opened = Vec::new();
    while let Ok(target) = app.streams.try_recv() {
        opened.push(target);
    }
    assert_eq!(opened, ["shop/web:80", "shop/api:80", "shop/any:80"]);
    assert_eq!(stage.server.metric(r#"pipeops_control_plane_web_requests_total{class="2xx"}"#).await, 4.0);
}

#[tokio::test]
async fn bodies_and_websockets_go_both_ways_whatever_the_agent_speaks() {
    for new in [true, false] {
        let stage = Stage::set(&[]).await;
        let _app = App::start(&stage.server, &stage.data(), &stage.secret, new).await;
        stage.sync(&[ingress("a.example.com", false, &[("/", "web")])]).await;
        bodies(&stage).await;
        websocket(&stage).await;
    }
}

async fn bodies(stage: &Stage) {
    let body: Bytes = (0..8 << 20).map(|n: u32| n.to_le_bytes()[1]).collect::<Vec<_>>().into();
    for _ in 0..2 {
        // A response that begins before its request has ended is the last of its connection.
        let mut client = Client::http(stage.http).await;
        let request = Request::post("/echo").header("host", "a.example.com").body(body.clone()).unwrap();
        let answer = client.ask(request).await;
        assert!(answer.body == body, "{} {} bytes", answer.status, answer.body.len());
    }
    let mut client = Client::http(stage.http).await;
    for _ in 0..2 {
        assert_eq!(client.get("a.example.com", "/large", &[]).await.body.len(), 8 << 20);
    }
}

async fn websocket(stage: &Stage) {
    let mut client = Client::http(stage.http).await;
    let request = Request::get("/socket").header("host", "a.example.com").header("connection", "Upgrade");
    let response = client.begin(request.header("upgrade", "websocket").body("").unwrap()).await;
    assert_eq!((response.status().as_u16(), &response.headers()["upgrade"]), (101, &"websocket".parse().unwrap()));
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut read = [0; 5];
    timeout(SOON, io.read_exact(&mut read)).await.expect("nothing comes").unwrap();
    assert_eq!(&read, b"hello");
    let frame = b"\x81\x85\0\0\0\0world";
    io.write_all(frame).await.unwrap();
    let mut read = [0; 11];
    timeout(SOON, io.read_exact(&mut read)).await.expect("nothing comes back").unwrap();
    assert_eq!(&read, frame);
}

#[tokio::test]
async fn events_come_piece_by_piece() {
    let stage = Stage::set(&[]).await;
    let app = App::of(&stage).await;
    stage.sync(&[ingress("a.example.com", false, &[("/", "events")])]).await;
    let mut client = Client::http(stage.http).await;
    let request = Request::get("/events").header("host", "a.example.com").body("").unwrap();
    app.events.try_send("data: 1\n\n").unwrap();
    let mut response = client.begin(request).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    for next in ["data: 2\n\n", "data: 3\n\n", ""] {
        let frame = timeout(SOON, response.body_mut().frame()).await.expect("the event waits").unwrap().unwrap();
        assert!(frame.into_data().unwrap().starts_with(b"data: "));
        app.events.try_send(next).unwrap();
    }
}

#[tokio::test]
async fn a_load_balancer_that_is_trusted_is_believed() {
    let stage = Stage::set(&[("PIPEOPS_GATEWAY_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let _app = App::of(&stage).await;
    stage.sync(&[ingress("a.example.com", true, &[("/", "web")])]).await;
    let mut client = Client::http(stage.http).await;
    let said = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")];
    let seen = client.get("a.example.com", "/", &said).await.json();
    assert_eq!(seen["headers"]["x-forwarded-for"], "203.0.113.9, 127.0.0.1");
    assert_eq!(seen["headers"]["x-forwarded-proto"], "https");
}
