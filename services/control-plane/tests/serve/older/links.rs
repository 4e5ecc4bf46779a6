//! What a link goes through, and what is under way on it meanwhile.

use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::agent::{Agent, Stage};
use super::user::{User, VERSIONS, Version, collect, full, soon};
use crate::control_plane::{SOON, get, token};

async fn cluster(stage: &Stage) -> Value {
    let mut connection = stage.server.connect(&stage.ca).await.unwrap();
    let list = get(&mut connection, "/api/v1/clusters", &stage.user).await.1;
    serde_json::from_str::<Value>(&list).unwrap()["clusters"][0].clone()
}

#[tokio::test]
async fn the_list_says_that_messages_carry_the_requests() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    agent.is_served().await;
    let shown = cluster(&stage).await;
    assert_eq!(
        (&shown["status"], &shown["links"], &shown["protocol"]),
        (&"connected".into(), &1.into(), &"messages".into())
    );
    assert!(shown.get("unreachable").is_none() && shown["agent_versions"] == json!(["1.0.0-dev"]), "{shown}");
    agent.say("heartbeat", None, json!({"cluster_id": agent.registered["cluster_id"], "agent_id": "a"})).await;
    agent.hear("heartbeat_ack").await;
    drop(agent);
    let gone = timeout(SOON, async {
        loop {
            let shown = cluster(&stage).await;
            if shown["status"] == "disconnected" {
                return shown;
            }
        }
    });
    let gone = gone.await.expect("it is still connected");
    assert!(gone["unreachable"].as_str().unwrap().contains("is offline") && gone.get("protocol").is_none(), "{gone}");
}

#[tokio::test]
async fn a_newer_link_replaces_the_older_and_breaks_what_it_carried() {
    let stage = Stage::set(&[]).await;
    let mut first = stage.agent().await;
    let mut user = User::connect(&stage, Version::Http2).await;
    let unanswered = user.get("/api/v1/pods").await;
    first.hear("proxy_request").await;
    let cut = user.get("/api/v1/pods").await;
    let id = first.hear("proxy_request").await.id;
    first.head(&id, json!({})).await;
    first.chunk(&id, b"a part").await;
    first.is_served().await;
    let mut second = stage.agent().await;
    assert_eq!(first.closed().await, (1008, "replaced by a newer link of the same agent".to_owned()));
    let unanswered = soon(unanswered).await;
    assert_eq!(unanswered.status, 502);
    assert!(unanswered.message().contains("the link was lost"), "{}", unanswered.message());
    assert!(!soon(cut).await.whole);
    let answer = user.get("/api/v1/pods").await;
    let asked = second.hear("proxy_request").await;
    second.answer(&asked.id, "pods").await;
    assert_eq!(soon(answer).await.text(), "pods");
    assert_eq!(cluster(&stage).await["links"], 1);
}

#[tokio::test]
async fn an_agent_that_goes_breaks_what_it_carried() {
    let stage = Stage::set(&[]).await;
    for version in VERSIONS {
        let mut agent = stage.agent().await;
        let mut user = User::connect(&stage, version).await;
        let sent = user.send(Method::GET, "/api/v1/pods", &[], full("")).await;
        let sending = tokio::spawn(sent);
        let id = agent.hear("proxy_request").await.id;
        agent.head(&id, json!({})).await;
        agent.chunk(&id, b"a part").await;
        let response = soon(sending).await.unwrap();
        drop(agent);
        assert!(!collect(response).await.whole, "{version:?}");
    }
}

#[tokio::test]
async fn a_message_that_can_be_no_requests_ends_the_link_and_one_that_is_not_known_does_not() {
    let stage = Stage::set(&[]).await;
    for text in ["no JSON", "[]", r#"{"payload": {}}"#, r#"{"type": "proxy_response", "payload": {"status": "x"}}"#] {
        let mut agent = stage.agent().await;
        agent.say("nosuch_type", Some("u1"), json!({})).await;
        agent.say("pong", Some("p1"), json!({"timestamp": "2026-11-21T06:31:06Z"})).await;
        agent.say("tcp_tunnel_close", Some("t1"), json!({"reason": "service_closed"})).await;
        agent.say("protocol_fallback", None, json!({"unknown_type": "x"})).await;
        agent.is_served().await;
        agent.say_text(text.to_owned()).await;
        assert_eq!(agent.closed().await, (1007, "message cannot be read".to_owned()), "{text}");
    }
    for bytes in [&b""[..], b"\0", b"\0\x05abc", b"\xff\xff\xff"] {
        let mut agent = stage.agent_without_yamux().await;
        agent.say_binary(bytes.to_vec()).await;
        assert_eq!(agent.closed().await.0, 1002, "{bytes:?}");
    }
    let unknown = stage.server.metric("pipeops_control_plane_unknown_messages_total").await;
    assert!((unknown - 4.0).abs() < 0.1, "{unknown}");
}

#[tokio::test]
async fn binary_messages_are_yamux_from_the_agreement_on() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    // The agreement has been heard.
    agent.is_served().await;
    agent.say_binary(vec![0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]).await;
    assert_eq!(agent.hear_binary().await, [0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7], "a ping is answered");
    let mut user = User::connect(&stage, Version::Http1).await;
    let answer = user.get("/api/v1/pods").await;
    let asked = agent.hear("proxy_request").await;
    agent.answer(&asked.id, "pods").await;
    assert_eq!(soon(answer).await.text(), "pods");
    agent.say_binary(b"no yamux at all".to_vec()).await;
    assert_eq!(agent.closed().await.0, 1002);
}

#[tokio::test]
async fn a_watch_ends_between_two_events_when_the_control_plane_stops() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    let mut user = User::connect(&stage, Version::Http1).await;
    let sent = user.send(Method::GET, "/api/v1/pods?watch=true", &[], full("")).await;
    let sending = tokio::spawn(sent);
    let id = agent.hear("proxy_request").await.id;
    agent.head(&id, json!({"Content-Type": ["application/json"]})).await;
    agent.chunk(&id, b"{\"type\":\"ADDED\"}\n{\"ty").await;
    let mut response = soon(sending).await.unwrap();
    let first = timeout(SOON, response.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
    stage.server.terminate().await;
    let refused = timeout(SOON, async { while stage.server.connect(&stage.ca).await.is_ok() {} });
    refused.await.expect("it goes on taking connections");
    agent.chunk(&id, b"pe\":\"DELETED\"}\n").await;
    let rest = collect(response).await;
    assert!(rest.whole, "the watch was cut");
    let all = [&first[..], &rest.body].concat();
    assert_eq!(String::from_utf8(all).unwrap(), "{\"type\":\"ADDED\"}\n{\"type\":\"DELETED\"}\n");
    assert_eq!(agent.hear("proxy_cancel").await.id, id);
    assert_eq!(agent.closed().await, (1001, "the control plane is shutting down".to_owned()));
}

#[tokio::test]
async fn a_revoked_token_cuts_its_answers_and_tells_the_agent() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent().await;
    let mut user = User::connect(&stage, Version::Http2).await;
    let watch = user.get("/api/v1/pods?watch=true").await;
    let id = agent.hear("proxy_request").await.id;
    agent.head(&id, json!({"Content-Type": ["application/json"]})).await;
    agent.chunk(&id, b"{}\n").await;
    let waiting = user.get("/api/v1/pods").await;
    let second = agent.hear("proxy_request").await.id;
    token(stage.place.path(), &["revoke", &stage.user]).await;
    assert!(!soon(watch).await.whole);
    assert_eq!(soon(waiting).await.status, 401);
    let mut told = [agent.hear("proxy_cancel").await.id, agent.hear("proxy_cancel").await.id];
    told.sort();
    let mut both = [id, second];
    both.sort();
    assert_eq!(told, both);
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_answer_and_nobody_else() {
    let stage = Stage::set(&[("PIPEOPS_LINKS_MESSAGE_UNREAD", "200000")]).await;
    let mut agent = stage.agent().await;
    for version in VERSIONS {
        let (mut slow, mut user) = (User::connect(&stage, version).await, User::connect(&stage, version).await);
        let cut = stage.server.metric("pipeops_control_plane_unread_answers_cut_total").await;
        let sent = slow.send(Method::GET, "/api/v1/pods", &[], full("")).await;
        let sending = tokio::spawn(sent);
        let id = agent.hear("proxy_request").await.id;
        agent.head(&id, json!({})).await;
        let response = soon(sending).await.unwrap();
        // More than its connection takes over, and may wait.
        let mut pieces = 0;
        while pieces < 2000 && (stage.server.metric("pipeops_control_plane_unread_answers_cut_total").await - cut) < 0.5
        {
            for _ in 0..20 {
                agent.chunk(&id, &[b'x'; 30_000]).await;
            }
            pieces += 20;
            let unread = stage.server.metric("pipeops_control_plane_message_unread_bytes").await;
            assert!(unread <= 240_000.0, "{unread}");
        }
        assert!(pieces < 2000, "it is never cut");
        assert_eq!(agent.hear("proxy_cancel").await.id, id);
        agent.end(&id).await;
        let answer = user.get("/api/v1/pods").await;
        let other = agent.hear("proxy_request").await.id;
        agent.answer(&other, "pods").await;
        assert_eq!(soon(answer).await.text(), "pods");
        let answer = collect(response).await;
        assert!(!answer.whole && answer.body.len() < pieces * 30_000, "{version:?}");
        let freed = timeout(SOON, async {
            while stage.server.metric("pipeops_control_plane_message_unread_bytes").await > 0.0 {}
        });
        freed.await.expect("its memory is kept");
    }
}

#[tokio::test]
async fn all_clients_that_do_not_read_have_a_limit_together() {
    let stage = Stage::set(&[("PIPEOPS_LINKS_MESSAGE_UNREAD_TOTAL", "300000")]).await;
    let mut agent = stage.agent().await;
    let mut user = User::connect(&stage, Version::Http2).await;
    let mut asked = Vec::new();
    for _ in 0..4 {
        let sent = user.send(Method::GET, "/api/v1/pods", &[], full("")).await;
        asked.push((agent.hear("proxy_request").await.id, tokio::spawn(sent)));
    }
    // Before anybody has read a byte: none of them is more than its own limit.
    for (id, _) in &asked {
        agent.say("proxy_response", Some(id), json!({"status": 200, "headers": {}, "body": "x".repeat(200_000)})).await;
    }
    agent.is_served().await;
    let mut whole = 0;
    for (_, sending) in asked {
        let answer = collect(soon(sending).await.unwrap()).await;
        if answer.status == 200 {
            assert!(answer.whole && answer.body.len() == 200_000);
            whole += 1;
        } else {
            assert!(answer.message().contains("links.message_unread_total"), "{}", answer.message());
        }
    }
    assert!(whole >= 1, "not even the first");
    assert!(stage.server.metric("pipeops_control_plane_message_unread_bytes").await < 0.5);
}

#[tokio::test]
async fn an_agent_without_a_registration_is_not_asked() {
    let stage = Stage::set(&[]).await;
    let mut agent = Agent::dial(&stage).await;
    agent.say("heartbeat", None, json!({"cluster_id": "c-1", "agent_id": "a"})).await;
    assert!(agent.hear("error").await.payload["error"].as_str().unwrap().contains("not registered"));
    agent.register(Some("token")).await;
    agent.say("heartbeat", None, json!({"cluster_id": agent.registered["cluster_id"], "agent_id": "a"})).await;
    agent.hear("heartbeat_ack").await;
    agent.is_served().await;
}
