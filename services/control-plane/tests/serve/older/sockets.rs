//! Users' WebSockets: exec, attach, port-forward.

use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::agent::{Agent, SERVICE_ACCOUNT, Stage};
use super::user::{User, Version, WebSocket, closed, full, hear, path, say, soon, websocket};
use crate::control_plane::{SOON, token};

pub const EXEC: &str = "/api/v1/namespaces/a/pods/b/exec?command=sh&stdin=true&stdout=true";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const SUCCESS: &str = r#"{"metadata":{},"status":"Success","kind":"Status","apiVersion":"v1"}"#;

/// A session under way: the client's half, and its id.
async fn begin(stage: &Stage, agent: &mut Agent, rest: &str, subprotocols: &str) -> (WebSocket, String) {
    let (socket, _) = websocket(stage, rest, subprotocols).await.unwrap();
    let started = agent.hear("proxy_websocket_start").await;
    (socket, started.payload["stream_id"].as_str().unwrap().to_owned())
}

fn binary(message: Message) -> Vec<u8> {
    match message {
        Message::Binary(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_session_is_begun_with_the_agents_token_for_the_user() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    for (offered, chosen) in [
        ("v5.channel.k8s.io", Some("v5.channel.k8s.io")),
        ("v5.channel.k8s.io, v4.channel.k8s.io", Some("v5.channel.k8s.io")),
        ("v4.base64.channel.k8s.io,channel.k8s.io", Some("channel.k8s.io")),
        ("base64url.bearer.authorization.k8s.io.c2VjcmV0, v4.channel.k8s.io", Some("v4.channel.k8s.io")),
        ("SPDY/3.1+portforward.k8s.io", Some(TUNNEL)),
        ("", None),
    ] {
        // A client of that crate wants one that it has offered, where it has offered any.
        let (_socket, headers) = websocket(&stage, EXEC, offered).await.unwrap();
        assert_eq!(headers.get("sec-websocket-protocol").map(|name| name.to_str().unwrap()), chosen, "{offered}");
        let started = agent.hear("proxy_websocket_start").await;
        assert_eq!(started.payload["stream_id"], started.id.as_str());
        let asked: Vec<_> = ["method", "path", "query", "protocol"].map(|field| started.payload[field].clone()).into();
        let protocol = chosen.unwrap_or("channel.k8s.io");
        assert_eq!(asked, ["GET", "/api/v1/namespaces/a/pods/b/exec", "command=sh&stdin=true&stdout=true", protocol]);
        let headers = started.payload["headers"].as_object().unwrap();
        let mut names: Vec<_> = headers.keys().map(String::as_str).filter(|name| *name != "Traceparent").collect();
        names.sort_unstable();
        assert_eq!(names, ["Authorization", "Impersonate-Group", "Impersonate-User"]);
        assert_eq!(headers["Authorization"], json!([format!("Bearer {SERVICE_ACCOUNT}")]));
        assert_eq!(
            (&headers["Impersonate-User"], &headers["Impersonate-Group"]),
            (&json!(["ana"]), &json!(["devs", "on call"]))
        );
        drop(_socket);
        assert_eq!(agent.hear("proxy_websocket_close").await.payload["stream_id"], started.id.as_str());
    }
}

#[tokio::test]
async fn what_cannot_be_carried_is_refused_with_what_to_do() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    for (rest, offered, reason) in [
        (EXEC, "v4.base64.channel.k8s.io", "none of the subprotocols"),
        ("/api/v1/namespaces/a/pods/b%2fc/exec", "v5.channel.k8s.io", "no WebSocket for such a path"),
        ("/api/v1/namespaces/../pods/b/exec", "v5.channel.k8s.io", "no WebSocket for such a path"),
        ("/logs/ws", "v5.channel.k8s.io", "older protocol"),
    ] {
        let (status, body) = websocket(&stage, rest, offered).await.unwrap_err();
        assert!(matches!(status.as_u16(), 400 | 404) && body.contains(reason), "{status} {body}");
    }
    let mut user = User::connect(&stage, Version::Http1).await;
    let headers =
        [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4.channel.k8s.io")];
    let answer = soon(user.ask(http::Method::GET, EXEC, &headers, full("")).await).await;
    assert_eq!(answer.status, 400);
    let message = answer.message();
    assert!(message.contains("no upgrade but WebSocket") && message.contains("kubectl from 1.31 on"), "{message}");
    agent.is_served().await;
}

#[tokio::test]
async fn a_session_is_carried_in_order_and_ends_with_its_status() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    let (mut user, id) = begin(&stage, &mut agent, EXEC, "v5.channel.k8s.io").await;
    for i in 0..500_u32 {
        let input = [&[0], format!("line {i}").as_bytes()].concat();
        say(&mut user, if i % 50 == 7 { Message::text(format!("text {i}")) } else { Message::binary(input) }).await;
    }
    for i in 0..500_u32 {
        let expected =
            if i % 50 == 7 { (1, format!("text {i}").into_bytes()) } else { (2, format!("\0line {i}").into_bytes()) };
        assert_eq!(agent.hear_frame(&id).await, expected);
    }
    // Output without its channel, with it, and a program that prints what looks like the end.
    for (opcode, bytes) in [(1, "text \u{fc}"), (2, "\u{1}out"), (2, "\u{2}err"), (1, SUCCESS), (1, "more")] {
        agent.frame(&id, opcode, bytes.as_bytes()).await;
    }
    let raw = [0x80, 0xff, 0];
    agent.frame(&id, 1, &raw).await;
    for expected in ["\u{1}text \u{fc}", "\u{1}out", "\u{2}err", &format!("\u{1}{SUCCESS}"), "\u{1}more"] {
        assert_eq!(binary(hear(&mut user).await), expected.as_bytes());
    }
    assert_eq!(binary(hear(&mut user).await), [&[1], &raw[..]].concat(), "output need not be text");
    // The client's own pings are answered here; one of the agent's by the client.
    say(&mut user, Message::Ping("x".into())).await;
    agent.frame(&id, 9, b"alive?").await;
    assert!(matches!(hear(&mut user).await, Message::Ping(bytes) if bytes == "alive?"));
    say(&mut user, Message::binary(vec![255, 0])).await;
    let mut frames = vec![agent.hear_frame(&id).await, agent.hear_frame(&id).await];
    frames.sort();
    assert_eq!(frames, [(2, vec![255, 0]), (10, b"alive?".to_vec())]);
    agent.frame(&id, 1, SUCCESS.as_bytes()).await;
    agent.say("proxy_websocket_close", Some(&id), json!({"stream_id": id})).await;
    assert_eq!(binary(hear(&mut user).await), [b"\x03", SUCCESS.as_bytes()].concat());
    assert_eq!(closed(&mut user).await, (1000, String::new()));
    assert!(timeout(SOON, user.next()).await.unwrap().is_none_or(|end| end.is_err()));
    agent.is_served().await;
}

#[tokio::test]
async fn an_end_that_the_agent_passes_on_is_passed_on() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    for (payload, expected) in
        [(&b"\x03\xe8bye"[..], Some((1000, "bye"))), (b"\x03\xf3out of pods", Some((1011, "out of pods"))), (b"", None)]
    {
        let (mut user, id) = begin(&stage, &mut agent, EXEC, "v4.channel.k8s.io").await;
        agent.frame(&id, 1, SUCCESS.as_bytes()).await;
        agent.frame(&id, 8, payload).await;
        assert_eq!(binary(hear(&mut user).await)[0], 3);
        let Message::Close(frame) = hear(&mut user).await else { panic!("no close frame") };
        assert_eq!(frame.as_ref().map(|frame| (frame.code.into(), frame.reason.as_str())), expected);
        let answered = timeout(SOON, user.next()).await.unwrap();
        assert!(answered.is_none_or(|end| end.is_err()));
        assert_eq!(agent.hear_frame(&id).await.0, 8, "the client's answer");
        agent.hear("proxy_websocket_close").await;
    }
}

#[tokio::test]
async fn an_end_without_a_reason_is_no_success() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    for (offered, opcode, said) in
        [("v5.channel.k8s.io", 1, "half of the output"), (TUNNEL, 2, "half of a frame"), ("", 1, "half")]
    {
        let (mut user, id) = begin(&stage, &mut agent, EXEC, offered).await;
        agent.frame(&id, opcode, said.as_bytes()).await;
        agent.say("proxy_websocket_close", Some(&id), json!({"stream_id": id})).await;
        assert!(binary(hear(&mut user).await).ends_with(said.as_bytes()));
        let ended = "the cluster's side ended without a reason; begin the session again";
        assert_eq!(closed(&mut user).await, (1011, ended.to_owned()), "{offered}");
        agent.is_served().await;
    }
}

#[tokio::test]
async fn a_session_that_breaks_says_so_in_the_words_of_its_protocol() {
    let mut stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    let broke = "the cluster's side broke; begin the session again";
    for offered in ["v5.channel.k8s.io", "channel.k8s.io", TUNNEL] {
        for case in 0..6 {
            let (mut user, id) = begin(&stage, &mut agent, EXEC, offered).await;
            let reason = match case {
                0 => {
                    let error = "failed to connect to K8s API: bad handshake (status: 403)";
                    agent.say("proxy_error", Some(&id), json!({"request_id": id, "error": error})).await;
                    agent.say("proxy_websocket_close", Some(&id), json!({"stream_id": id})).await;
                    error
                }
                1 => {
                    agent.say("backpressure", Some(&id), json!({"request_id": id, "reason": "channel_full"})).await;
                    "dropped a part"
                }
                2 => {
                    agent.say("proxy_websocket_data", Some(&id), json!({"stream_id": id, "data": "%"})).await;
                    "payload of message"
                }
                3 => {
                    agent.frame(&id, 7, b"x").await;
                    "without an opcode"
                }
                4 => {
                    agent.chunk(&id, b"of a request").await;
                    "no sense in this order"
                }
                _ => {
                    agent.frame(&id, 8, b"\x03\xedno such code").await;
                    "no WebSocket can carry"
                }
            };
            // What the agent says is for the user, as far as the protocol has a place for it.
            let said = case == 0 && offered != TUNNEL;
            if said {
                let word = binary(hear(&mut user).await);
                assert_eq!(word[0], 3, "{offered} {case}");
                let text = if offered.starts_with("v5") {
                    let status: Value = serde_json::from_slice(&word[1..]).unwrap();
                    assert!(status["kind"] == "Status" && status["status"] == "Failure", "{status}");
                    status["message"].as_str().unwrap().to_owned()
                } else {
                    String::from_utf8(word[1..].to_vec()).unwrap()
                };
                assert!(text.contains(reason), "{offered} {case}: {text}");
            }
            let expected = if said { (1000, String::new()) } else { (1011, broke.to_owned()) };
            assert_eq!(closed(&mut user).await, expected, "{offered} {case}");
            let why = if said { "a session ended early" } else { "session ended early" };
            let logged = stage.server.says(why).await.to_string();
            assert!(said || case == 0 || logged.contains(reason), "{reason}: {logged}");
            if case > 0 {
                assert_eq!(agent.hear("proxy_websocket_close").await.payload["stream_id"], id.as_str());
            }
            agent.is_served().await;
        }
    }
}

#[tokio::test]
async fn a_client_that_closes_or_goes_ends_its_session_in_the_cluster() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    let (mut user, id) = begin(&stage, &mut agent, EXEC, "v5.channel.k8s.io").await;
    let frame = CloseFrame { code: 1000.into(), reason: "enough".into() };
    say(&mut user, Message::Close(Some(frame))).await;
    assert_eq!(agent.hear_frame(&id).await, (8, b"\x03\xe8enough".to_vec()));
    assert_eq!(agent.hear("proxy_websocket_close").await.payload["stream_id"], id.as_str());
    assert_eq!(closed(&mut user).await.0, 1000, "its own word, back");

    let (user, id) = begin(&stage, &mut agent, EXEC, "v5.channel.k8s.io").await;
    drop(user);
    assert_eq!(agent.hear("proxy_websocket_close").await.payload["stream_id"], id.as_str());
    // The agent may not know yet.
    agent.frame(&id, 1, b"late").await;
    agent.is_served().await;

    let (mut user, id) = begin(&stage, &mut agent, EXEC, "v5.channel.k8s.io").await;
    say(&mut user, Message::binary(vec![0; (1 << 20) + 1])).await;
    assert_eq!(closed(&mut user).await, (1009, "a message is larger than 1 MiB".to_owned()));
    assert_eq!(agent.hear("proxy_websocket_close").await.payload["stream_id"], id.as_str());
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_session_alone() {
    let stage = Stage::set(&[("PIPEOPS_LINKS_MESSAGE_UNREAD", "200000")]).await;
    let mut agent = stage.agent().await;
    let (mut slow, id) = begin(&stage, &mut agent, EXEC, "v5.channel.k8s.io").await;
    let (mut user, other) = begin(&stage, &mut agent, EXEC, "v5.channel.k8s.io").await;
    let mut sent = 0;
    while stage.server.metric("pipeops_control_plane_unread_answers_cut_total").await < 0.5 {
        assert!(sent < 100_000_000, "it is never cut");
        for _ in 0..20 {
            agent.frame(&id, 2, &[b'x'; 30_000]).await;
        }
        sent += 600_000;
        agent.frame(&other, 2, b"\x01beside").await;
        assert_eq!(binary(hear(&mut user).await), b"\x01beside");
    }
    assert_eq!(agent.hear("proxy_websocket_close").await.payload["stream_id"], id.as_str());
    let mut got = 0;
    let told = loop {
        match timeout(SOON, slow.next()).await.expect("it does not end") {
            Some(Ok(Message::Binary(bytes))) => got += bytes.len(),
            Some(Ok(Message::Close(frame))) => break frame,
            other => panic!("{other:?}"),
        }
    };
    assert!(got < sent);
    assert_eq!(told.map(|frame| u16::from(frame.code)), Some(1011));
}

#[tokio::test]
async fn what_ends_other_sessions_ends_these_with_the_same_words() {
    let stage = Stage::set(&[("PIPEOPS_SHUTDOWN_TIMEOUT", "6s")]).await;
    let mut agent = stage.agent().await;
    let (mut user, id) = begin(&stage, &mut agent, EXEC, "v5.channel.k8s.io").await;
    token(stage.place.path(), &["revoke", &stage.user]).await;
    assert_eq!(closed(&mut user).await, (1008, "the token was revoked; ask for a new one".to_owned()));
    assert_eq!(agent.hear("proxy_websocket_close").await.payload["stream_id"], id.as_str());

    let user = token(stage.place.path(), &["create", "--user", "ben"]).await;
    let stage = Stage { user, ..stage };
    let (mut user, _) = begin(&stage, &mut agent, EXEC, TUNNEL).await;
    drop(agent);
    let broke = "the cluster's side broke; begin the session again";
    assert_eq!(closed(&mut user).await, (1011, broke.to_owned()));

    let mut agent = stage.agent().await;
    let (mut user, id) = begin(&stage, &mut agent, EXEC, TUNNEL).await;
    agent.frame(&id, 2, b"data").await;
    assert_eq!(binary(hear(&mut user).await), b"data");
    stage.server.terminate().await;
    let stopped = "the control plane is shutting down; begin the session again";
    assert_eq!(closed(&mut user).await, (1001, stopped.to_owned()));
}

#[tokio::test]
async fn http2_has_no_upgrades_for_these_clusters_either() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    assert!(path(EXEC).contains("/proxy/api/v1/"));
    let mut user = User::connect(&stage, Version::Http2).await;
    let headers = [("sec-websocket-protocol", "v5.channel.k8s.io"), ("sec-websocket-version", "13")];
    // Without an upgrade it is a plain request, which an API server refuses by itself.
    let answer = user.ask(http::Method::GET, EXEC, &headers, full("")).await;
    let asked = agent.hear("proxy_request").await;
    agent
        .say(
            "proxy_response",
            Some(&asked.id),
            json!({"status": 400, "headers": {}, "body": "Upgrade request required"}),
        )
        .await;
    assert_eq!(soon(answer).await.status, 400);
}
