//! What the agent answers, in all its forms and deformities.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio::task::JoinHandle;

use super::agent::{Agent, Stage, binary};
use super::user::{Answer, User, VERSIONS, Version, collect, full, soon};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn every_form_of_an_answer_is_the_same_to_the_user() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent_without_yamux().await;
    let text = "pods and pods; ".repeat(400);
    let headers =
        json!({"Content-Type": ["application/json"], "X-Two": ["a", "b"], "X-One": "c", "Connection": "close"});
    for version in VERSIONS {
        let mut user = User::connect(&stage, version).await;
        for form in 0..9 {
            let answer = user.get("/api/v1/pods").await;
            let id = agent.hear("proxy_request").await.id;
            let whole = |body: String, encoding: &str| json!({"status": 203, "headers": headers, "body": body, "encoding": encoding});
            match form {
                0 => {
                    agent
                        .say("proxy_response", Some(&id), json!({"status_code": 203, "headers": headers, "body": text}))
                        .await
                }
                1 => agent.say("proxy_response", Some(&id), whole(STANDARD.encode(&text), "base64")).await,
                2 => {
                    agent.say("proxy_response", Some(&id), whole(STANDARD.encode(gzip(text.as_bytes())), "gzip")).await
                }
                3..=5 => {
                    let kind = if form == 3 { "proxy_response_header" } else { "proxy_response_start" };
                    let field = if form == 3 { "status" } else { "status_code" };
                    let mut payload = json!({"headers": headers});
                    payload[field] = 203.into();
                    if form == 5 {
                        payload["headers"]["Content-Length"] = json!([text.len().to_string()]);
                    }
                    agent.say(kind, Some(&id), payload).await;
                    agent.chunk(&id, &text.as_bytes()[..10]).await;
                    agent.chunk(&id, b"").await;
                    agent.chunk(&id, &text.as_bytes()[10..]).await;
                    agent.end(&id).await;
                }
                6 => agent.say_binary(binary(&id, 203, &headers.to_string(), text.as_bytes())).await,
                7 => agent.say_binary(binary(&id, 203, &headers.to_string(), &gzip(text.as_bytes()))).await,
                // JSON in a binary message.
                _ => {
                    let message = json!({"type": "proxy_response", "request_id": id, "payload": whole(STANDARD.encode(&text), "base64")});
                    agent.say_binary(message.to_string().into_bytes()).await;
                }
            }
            let answer = soon(answer).await;
            assert_eq!(
                (answer.status.as_u16(), answer.text(), answer.whole),
                (203, text.as_str(), true),
                "{version:?} {form}"
            );
            assert_eq!(answer.headers.get_all("x-two").iter().collect::<Vec<_>>(), ["a", "b"]);
            assert_eq!(
                (&answer.headers["x-one"], &answer.headers["content-type"]),
                (&"c".parse().unwrap(), &"application/json".parse().unwrap())
            );
            if matches!(form, 0 | 1 | 5 | 6 | 8) {
                assert_eq!(answer.headers["content-length"], text.len().to_string().as_str(), "{version:?} {form}");
            }
        }
        // What the client is to unpack itself.
        for (form, packed) in [(0, gzip(b"packed")), (1, gzip(b"packed"))] {
            let answer = user.get("/api/v1/pods").await;
            let id = agent.hear("proxy_request").await.id;
            let headers = json!({"Content-Type": ["application/json"], "Content-Encoding": ["gzip"]});
            if form == 0 {
                let payload =
                    json!({"status": 200, "headers": headers, "body": STANDARD.encode(&packed), "encoding": "base64"});
                agent.say("proxy_response", Some(&id), payload).await;
            } else {
                agent.say_binary(binary(&id, 200, &headers.to_string(), &packed)).await;
            }
            assert_eq!(soon(answer).await.body, packed);
        }
        for (method, status, said) in
            [(Method::HEAD, 200, Some("345")), (Method::GET, 204, None), (Method::GET, 304, None)]
        {
            let answer = user.ask(method.clone(), "/api/v1/pods", &[], full("")).await;
            let id = agent.hear("proxy_request").await.id;
            let headers = said.map_or(json!({}), |length| json!({"Content-Length": [length]}));
            if status == 304 {
                agent.say("proxy_response", Some(&id), json!({"status": status, "headers": headers})).await;
            } else {
                agent.say("proxy_response_header", Some(&id), json!({"status": status, "headers": headers})).await;
                agent.end(&id).await;
            }
            let answer = soon(answer).await;
            assert_eq!(
                (answer.status.as_u16(), answer.body.len(), answer.whole),
                (status, 0, true),
                "{method} {status}"
            );
            assert_eq!(
                answer.headers.get("content-length").map(|length| length.to_str().unwrap()),
                said,
                "{method} {status}"
            );
        }
    }
    agent.is_served().await;
}

/// What an agent does to a request's answer.
type Act = for<'a> fn(&'a mut Agent, &'a str) -> std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! acts {
    ($($what:literal: |$agent:ident, $id:ident| $act:block)*) => {
        [$(($what, (|$agent, $id| Box::pin(async move $act)) as Act)),*]
    };
}

#[tokio::test]
async fn what_is_no_answer_is_a_502_with_the_reason() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent_without_yamux().await;
    let cases = acts! {
        "connection refused by 10.0.0.1": |agent, id| {
            agent.say("proxy_error", Some(id), json!({"error": "connection refused by 10.0.0.1"})).await;
        }
        "Client.Timeout": |agent, id| {
            agent.say("proxy_response_abort", Some(id), json!({"error": "Client.Timeout\r\n"})).await;
        }
        "without a reason": |agent, id| { agent.say("proxy_error", Some(id), json!({})).await; }
        "no sense in this order": |agent, id| { agent.chunk(id, b"early").await; }
        "no sense in this order ": |agent, id| { agent.end(id).await; }
        "no sense in this order  ": |agent, id| { agent.frame(id, 2, b"frame").await; }
        "status 99": |agent, id| {
            agent.say("proxy_response_header", Some(id), json!({"status": 99, "headers": {}})).await;
        }
        "status 101": |agent, id| {
            agent.say("proxy_response", Some(id), json!({"status": 101, "headers": {}})).await;
        }
        "header \"a b\"": |agent, id| { agent.head(id, json!({"a b": ["c"]})).await; }
        "payload of message": |agent, id| { agent.head(id, json!({"X": 7})).await; }
        "payload of message ": |agent, id| {
            agent.say("proxy_response_chunk", Some(id), json!({"data": "%%%"})).await;
        }
        "body is not valid base64": |agent, id| {
            let payload = json!({"status": 200, "headers": {}, "body": "%", "encoding": "base64"});
            agent.say("proxy_response", Some(id), payload).await;
        }
        "as its head says": |agent, id| {
            let payload = json!({"status": 200, "headers": {"Content-Length": ["5"]}, "body": "four"});
            agent.say("proxy_response", Some(id), payload).await;
        }
        "as its head says ": |agent, id| { agent.head(id, json!({"Content-Length": ["5", "6"]})).await; }
        "binary message": |agent, id| {
            let cut = binary(id, 200, r#"{"A": ["b"]}"#, b"")[..50].to_vec();
            agent.say_binary(cut).await;
        }
        "dropped a part": |agent, id| {
            agent.say("backpressure", None, json!({"request_id": id, "reason": "channel_full"})).await;
        }
    };
    for version in VERSIONS {
        let mut user = User::connect(&stage, version).await;
        for (reason, act) in cases {
            let answer = user.get("/api/v1/pods").await;
            let id = agent.hear("proxy_request").await.id;
            act(&mut agent, &id).await;
            let answer = soon(answer).await;
            assert_eq!(answer.status, 502, "{reason}");
            let message = answer.message();
            assert!(message.contains(reason.trim()) && message.contains("cluster \"prod\""), "{reason}: {message}");
            // What was found here is told to the agent, unless it has said all it has to say.
            let known = ["connection refused by 10.0.0.1", "Client.Timeout", "without a reason", "as its head says"];
            if !known.contains(&reason) {
                assert_eq!(agent.hear("proxy_cancel").await.id, id, "{reason}");
            }
            agent.say("proxy_response_end", Some(&id), json!({})).await;
            agent.is_served().await;
        }
    }
}

/// What comes of an answer that HTTP/2 may reset before a byte of it has left.
async fn come(sending: JoinHandle<hyper::Result<Response<Incoming>>>) -> Answer {
    match soon(sending).await {
        Ok(response) => collect(response).await,
        Err(error) => {
            assert!(error.to_string().contains("http2"), "{error}");
            Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: Vec::new(), whole: false }
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_never_ended_as_if_it_were_whole() {
    let stage = Stage::set(&[("PIPEOPS_LINKS_MAX_UNPACKED", "100000")]).await;
    let mut agent = stage.agent_without_yamux().await;
    let cases = acts! {
        "abort": |agent, id| { agent.say("proxy_response_abort", Some(id), json!({"error": "gone"})).await; }
        "error": |agent, id| { agent.say("proxy_error", Some(id), json!({"error": "gone"})).await; }
        "second head": |agent, id| { agent.head(id, json!({})).await; }
        "whole answer behind the head": |agent, id| { agent.answer(id, "whole").await; }
        "chunk that cannot be read": |agent, id| {
            agent.say("proxy_response_chunk", Some(id), json!({"data": "%"})).await;
        }
        "chunk without data": |agent, id| { agent.say("proxy_response_chunk", Some(id), json!({})).await; }
        "message of a WebSocket": |agent, id| { agent.frame(id, 2, b"x").await; }
    };
    for version in VERSIONS {
        for (case, act) in cases {
            let mut user = User::connect(&stage, version).await;
            let sent = user.send(Method::GET, "/api/v1/pods", &[], full("")).await;
            let sending = tokio::spawn(sent);
            let id = agent.hear("proxy_request").await.id;
            agent.head(&id, json!({})).await;
            agent.chunk(&id, b"a part").await;
            act(&mut agent, &id).await;
            let answer = come(sending).await;
            assert!(!answer.whole && b"a part".starts_with(&answer.body), "{version:?} {case}: {answer:?}");
            if !matches!(case, "abort" | "error") {
                assert_eq!(agent.hear("proxy_cancel").await.id, id, "{case}");
            }
            agent.is_served().await;
        }
        // Less, or more, than the head says.
        for (said, chunk) in [("7", "a part"), ("5", "a part")] {
            let mut user = User::connect(&stage, version).await;
            let sent = user.send(Method::GET, "/api/v1/pods", &[], full("")).await;
            let sending = tokio::spawn(sent);
            let id = agent.hear("proxy_request").await.id;
            agent.head(&id, json!({"Content-Length": [said]})).await;
            agent.chunk(&id, chunk.as_bytes()).await;
            agent.end(&id).await;
            let answer = come(sending).await;
            assert!(!answer.whole, "{version:?} {said}: {answer:?}");
        }
        // Packed, and broken or far too large.
        let mut broken = gzip(&b"some text ".repeat(2000));
        broken.truncate(broken.len() - 4);
        for packed in [broken, gzip(&vec![b'x'; 100_001])] {
            let mut user = User::connect(&stage, version).await;
            let sent = user.send(Method::GET, "/api/v1/pods", &[], full("")).await;
            let sending = tokio::spawn(sent);
            let id = agent.hear("proxy_request").await.id;
            let payload = json!({"status": 200, "headers": {}, "body": STANDARD.encode(packed), "encoding": "gzip"});
            agent.say("proxy_response", Some(&id), payload).await;
            let answer = come(sending).await;
            assert!(!answer.whole && answer.body.len() <= 100_000, "{version:?}: {} bytes", answer.body.len());
        }
    }
    agent.is_served().await;
}

#[tokio::test]
async fn answers_come_in_any_order_and_each_to_its_own_request() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    let mut user = User::connect(&stage, Version::Http2).await;
    let mut asked = Vec::new();
    for i in 0..20 {
        let answer = user.get(&format!("/api/v1/pods/{i}")).await;
        asked.push((agent.hear("proxy_request").await, answer));
    }
    let ids: std::collections::HashSet<_> = asked.iter().map(|(asked, _)| asked.id.clone()).collect();
    assert!(ids.len() == 20 && ids.iter().all(|id| id.len() == 32), "{ids:?}");
    for (asked, _) in asked.iter().rev() {
        agent.head(&asked.id, json!({})).await;
    }
    for part in ["a", "b", "c"] {
        for (asked, _) in &asked {
            agent.chunk(&asked.id, format!("{part}{}", asked.payload["path"].as_str().unwrap()).as_bytes()).await;
        }
    }
    for (asked, _) in asked.iter().rev() {
        agent.end(&asked.id).await;
        // Twice, and something behind it.
        agent.end(&asked.id).await;
        agent.chunk(&asked.id, b"more").await;
    }
    for (i, (_, answer)) in asked.into_iter().enumerate() {
        let answer = soon(answer).await;
        assert_eq!(answer.text(), format!("a/api/v1/pods/{i}b/api/v1/pods/{i}c/api/v1/pods/{i}"));
    }
}

#[tokio::test]
async fn a_large_answer_arrives_as_it_was_sent_beside_others() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    for version in VERSIONS {
        let mut user = User::connect(&stage, version).await;
        let answer = user.get("/api/v1/pods").await;
        let id = agent.hear("proxy_request").await.id;
        agent.head(&id, json!({})).await;
        let mut sent = Vec::new();
        // Far more than may wait, of a client that reads.
        for i in 0..600_u32 {
            let piece: Vec<u8> = (0..16_384_u32).map(|j| u8::try_from((i * 7 + j) % 251).unwrap()).collect();
            agent.chunk(&id, &piece).await;
            sent.extend(piece);
            if i % 100 == 0 {
                agent.is_served().await;
            }
        }
        agent.end(&id).await;
        let answer = soon(answer).await;
        assert!(answer.whole && answer.body == sent, "{version:?}: {} of {} bytes", answer.body.len(), sent.len());
    }
}
