//! What the agent is asked.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::agent::{Agent, SERVICE_ACCOUNT, Stage};
use super::user::{Body, User, VERSIONS, Version, full, soon};

#[tokio::test]
async fn a_request_is_made_with_the_agents_token_for_the_user() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    for version in VERSIONS {
        let mut user = User::connect(&stage, version).await;
        let mut headers = vec![
            ("accept", "application/json"),
            ("accept", "application/yaml"),
            // Each of these would make the agent take another way, on which it loses or replaces the identity.
            ("x-forwarded-host", "app.example.com"),
            ("forwarded", "host=app.example.com"),
            ("sec-websocket-key", "eA=="),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "v4.channel.k8s.io"),
            ("x-pipeops-user", "root"),
            ("te", "trailers"),
        ];
        if version == Version::Http1 {
            headers.extend([("connection", "impersonate-user, authorization"), ("upgrade", "websocket")]);
        }
        let answer = user.ask(Method::GET, "/api/v1/pods?limit=1&watch=0", &headers, full("")).await;
        let asked = agent.hear("proxy_request").await;
        let mut expected = json!({
            "Accept": ["application/json", "application/yaml"],
            "Authorization": [format!("Bearer {SERVICE_ACCOUNT}")],
            "Impersonate-User": ["ana"],
            "Impersonate-Group": ["devs", "on call"],
        });
        for (name, value) in asked.payload["headers"].as_object().unwrap() {
            if name == "Traceparent" {
                expected[name] = value.clone();
            }
        }
        assert_eq!(asked.payload["headers"], expected, "{version:?}");
        let asked_for: Vec<_> = ["method", "path", "query"].map(|field| asked.payload[field].clone()).into();
        assert_eq!(asked_for, ["GET", "/api/v1/pods", "limit=1&watch=0"]);
        assert!(asked.payload["supports_streaming"] == true && asked.payload["supports_response_streaming"] == true);
        assert_eq!(asked.payload["timeout"], 86_400_000, "it would give up after two minutes");
        assert!(["body", "use_streaming", "is_websocket"].iter().all(|field| asked.payload.get(field).is_none()));
        agent.answer(&asked.id, "pods").await;
        assert_eq!(soon(answer).await.text(), "pods");
        // Nobody else may say who they are.
        let refused = user.ask(Method::GET, "/api/v1/pods", &[("impersonate-user", "root")], full("")).await;
        assert_eq!(soon(refused).await.status, 403);
    }
    agent.is_served().await;
}

#[tokio::test]
async fn only_what_the_agent_takes_to_the_api_server_is_sent() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    let mut user = User::connect(&stage, Version::Http1).await;
    for path in ["/", "/metrics", "/apiary", "//api/v1/pods", "/login"] {
        let answer = soon(user.get(path).await).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.message().contains("older protocol"), "{path}: {}", answer.message());
    }
    for path in ["/api", "/apis/apps/v1/deployments", "/version", "/healthz", "/openapi/v3?x=1"] {
        let answer = user.get(path).await;
        let asked = agent.hear("proxy_request").await;
        agent.answer(&asked.id, path).await;
        assert_eq!(soon(answer).await.text(), path);
    }
}

#[tokio::test]
async fn a_small_body_goes_with_the_request_and_another_as_it_comes() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    for version in VERSIONS {
        let mut user = User::connect(&stage, version).await;
        for size in [1, 65_536] {
            let body: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let answer = user.ask(Method::POST, "/api/v1/pods", &[("content-type", "x/y")], full(body.clone())).await;
            let asked = agent.hear("proxy_request").await;
            assert_eq!(asked.payload["body_encoding"], "base64");
            assert_eq!(STANDARD.decode(asked.payload["body"].as_str().unwrap()).unwrap(), body);
            assert_eq!(asked.payload["headers"]["Content-Type"], json!(["x/y"]));
            assert!(asked.payload["headers"].get("Content-Length").is_none());
            agent.answer(&asked.id, "made").await;
            assert_eq!(soon(answer).await.text(), "made");
        }
        let body: Vec<u8> = (0..300_000).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let answer = user.ask(Method::PUT, "/api/v1/pods", &[], full(body.clone())).await;
        let asked = agent.hear("proxy_request").await;
        assert!(asked.payload["use_streaming"] == true && asked.payload.get("body").is_none());
        assert_eq!(sent(&mut agent, &asked.id).await, body);
        agent.answer(&asked.id, "made").await;
        assert_eq!(soon(answer).await.text(), "made");

        // As it comes, and no sooner.
        let (pieces, body) = piecewise();
        let answer = user.ask(Method::PATCH, "/api/v1/pods", &[], body).await;
        let asked = agent.hear("proxy_request").await;
        for piece in ["first", "second"] {
            pieces.send(Ok(Bytes::from(piece))).await.unwrap();
            let chunk = agent.hear("proxy_request_chunk").await;
            assert_eq!(STANDARD.decode(chunk.payload["data"].as_str().unwrap()).unwrap(), piece.as_bytes());
        }
        // The answer may begin before.
        agent.head(&asked.id, json!({})).await;
        agent.chunk(&asked.id, b"so far so good").await;
        drop(pieces);
        assert_eq!(agent.hear("proxy_request_stream_end").await.id, asked.id);
        agent.end(&asked.id).await;
        let answer = soon(answer).await;
        assert!(answer.whole && answer.text() == "so far so good", "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_may_end_before_its_request_and_ends_it() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    for version in VERSIONS {
        let mut user = User::connect(&stage, version).await;
        let (pieces, body) = piecewise();
        let answer = user.ask(Method::POST, "/api/v1/pods", &[], body).await;
        let asked = agent.hear("proxy_request").await;
        pieces.send(Ok(Bytes::from("piece"))).await.unwrap();
        agent.hear("proxy_request_chunk").await;
        agent.say("proxy_response", Some(&asked.id), json!({"status": 413, "headers": {}, "body": "too large"})).await;
        let answer = soon(answer).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (413, "too large"), "{version:?}");
        assert_eq!(agent.hear("proxy_cancel").await.id, asked.id, "it would wait for the rest");
        agent.is_served().await;
    }
}

/// A body whose length nobody knows.
pub fn piecewise() -> (mpsc::Sender<Result<Bytes, std::io::Error>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = futures::stream::unfold(receiver, async |mut receiver| {
        let piece: Result<Bytes, std::io::Error> = receiver.recv().await?;
        Some((piece.map(Frame::data), receiver))
    });
    (sender, StreamBody::new(Box::pin(pieces)).boxed_unsync())
}

/// The body of a request that comes in pieces.
async fn sent(agent: &mut Agent, id: &str) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let heard = agent.next().await;
        assert_eq!(heard.id, id);
        match heard.kind.as_str() {
            "proxy_request_chunk" => {
                let bytes = STANDARD.decode(heard.payload["data"].as_str().unwrap()).unwrap();
                assert!(bytes.len() <= 32 * 1024, "{} bytes in one message", bytes.len());
                body.extend(bytes);
            }
            "proxy_request_stream_end" => return body,
            kind => panic!("{kind} in between"),
        }
    }
}

#[tokio::test]
async fn a_user_who_goes_away_cancels_and_what_the_agent_says_then_is_late() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    for version in VERSIONS {
        // Before the answer, in it, and while the request is sent.
        for step in 0..3 {
            let mut user = User::connect(&stage, version).await;
            let (pieces, body) = piecewise();
            let body = if step == 2 { body } else { full("") };
            let sent = user.send(Method::POST, "/api/v1/pods", &[], body).await;
            let sending = tokio::spawn(sent);
            let asked = agent.hear("proxy_request").await;
            if step == 1 {
                agent.head(&asked.id, json!({})).await;
                agent.chunk(&asked.id, b"begun").await;
                let response = soon(sending).await.unwrap();
                drop(response);
            } else {
                if step == 2 {
                    pieces.send(Ok(Bytes::from("piece"))).await.unwrap();
                    agent.hear("proxy_request_chunk").await;
                }
                sending.abort();
            }
            drop(user);
            let cancel = agent.hear("proxy_cancel").await;
            assert_eq!(cancel.id, asked.id, "{version:?} {step}");
            let late = stage.server.metric("pipeops_control_plane_late_messages_total").await;
            agent.chunk(&asked.id, b"late").await;
            agent.end(&asked.id).await;
            agent.end("of no request").await;
            agent.say("proxy_response_end", None, json!({})).await;
            agent.is_served().await;
            let late = stage.server.metric("pipeops_control_plane_late_messages_total").await - late;
            assert!((late - 4.0).abs() < 0.1, "{late} late messages");
        }
    }
}

#[tokio::test]
async fn without_a_token_nothing_is_asked_and_each_registration_brings_a_new_one() {
    let stage = Stage::set(&[]).await;
    let mut agent = Agent::dial(&stage).await;
    agent.register(None).await;
    let mut user = User::connect(&stage, Version::Http2).await;
    let answer = soon(user.get("/api/v1/pods").await).await;
    assert_eq!(answer.status, 503);
    let message = answer.message();
    assert!(message.contains("agent-a24174672b98d81c (version \"1.0.0-dev\") sent no k8s_service_token"), "{message}");
    let list: Value = serde_json::from_str(&clusters(&stage).await).unwrap();
    let cluster = &list["clusters"][0];
    assert!(
        cluster["unreachable"].as_str().unwrap().contains("agent-a24174672b98d81c (version \"1.0.0-dev\")"),
        "{list}"
    );
    for token in ["first", "second"] {
        agent.register(Some(token)).await;
        let answer = user.get("/api/v1/pods").await;
        let asked = agent.hear("proxy_request").await;
        assert_eq!(asked.payload["headers"]["Authorization"], json!([format!("Bearer {token}")]));
        agent.answer(&asked.id, "pods").await;
        assert_eq!(soon(answer).await.text(), "pods");
    }
    agent.register(None).await;
    assert_eq!(soon(user.get("/api/v1/pods").await).await.status, 503);
}

async fn clusters(stage: &Stage) -> String {
    let mut connection = stage.server.connect(&stage.ca).await.unwrap();
    crate::control_plane::get(&mut connection, "/api/v1/clusters", &stage.user).await.1
}

#[tokio::test]
async fn a_token_that_the_api_server_refuses_is_the_agents_and_no_secret_is_logged() {
    let mut stage = Stage::set(&[("PIPEOPS_LOG_LEVEL", "trace")]).await;
    let mut agent = stage.agent().await;
    let mut user = User::connect(&stage, Version::Http1).await;
    let answer = user.get("/api/v1/pods").await;
    let asked = agent.hear("proxy_request").await;
    agent.say("proxy_response", Some(&asked.id), json!({"status": 401, "headers": {}, "body": "{}"})).await;
    let answer = soon(answer).await;
    assert_eq!(answer.status, 503);
    assert!(answer.message().contains("refused the token that its agent sent"), "{}", answer.message());
    // What is forbidden to the agent itself is nothing that the user can do something about.
    for (why, told) in [
        (r#"users "ana" is forbidden: User "system:serviceaccount:a:b" cannot impersonate resource "users""#, 503),
        (r#"pods is forbidden: User "ana" cannot list resource "pods""#, 403),
        ("", 403),
    ] {
        let answer = user.get("/api").await;
        let asked = agent.hear("proxy_request").await;
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": why, "code": 403});
        let body = if why.is_empty() { "no Status".to_owned() } else { status.to_string() };
        agent.say("proxy_response_header", Some(&asked.id), json!({"status": 403, "headers": {}})).await;
        agent.chunk(&asked.id, body.as_bytes()).await;
        agent.end(&asked.id).await;
        let answer = soon(answer).await;
        assert_eq!(answer.status, told);
        if told == 503 {
            assert!(
                answer.message().contains("the verb impersonate on users and groups (users"),
                "{}",
                answer.message()
            );
            assert!(answer.headers["warning"].to_str().unwrap().contains("may not act for users"));
        } else {
            assert_eq!(answer.text(), body);
        }
    }
    // That of a Service behind the API server is the user's to give.
    let answer = user.get("/api/v1/namespaces/a/services/web/proxy/").await;
    let asked = agent.hear("proxy_request").await;
    agent.say("proxy_response", Some(&asked.id), json!({"status": 401, "headers": {}, "body": "who?"})).await;
    assert_eq!(soon(answer).await.text(), "who?");
    drop(user);
    agent.is_served().await;
    stage.server.terminate().await;
    let mut lines = 0;
    while let Some(line) = timeout(Duration::from_secs(20), stage.server.line()).await.unwrap() {
        lines += 1;
        assert!(!line.contains(SERVICE_ACCOUNT), "{line}");
    }
    assert!(lines > 3, "{lines} lines");
}
