//! The tokens of an agent, from its first registration on.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest as _};

use crate::agents::{Link, dial, hear, say};
use crate::control_plane::{ControlPlane, SOON, ca, token};

const REGISTER: &str = r#"{"agent_id": "agent-1", "capabilities": ["streams/2", "token_refresh"]}"#;

async fn register(link: &mut Link, payload: &str) -> Value {
    say(link, "register", serde_json::from_str(payload).unwrap()).await;
    hear(link, "register_success").await
}

/// The token that the agent is given next, kept or not.
async fn given(link: &mut Link, keep: bool) -> String {
    let given = hear(link, "token_refresh").await;
    if keep {
        say(link, "token_refresh_ack", Value::Null).await;
    }
    given["token"].as_str().unwrap().to_owned()
}

/// Waits until the control plane has handled what was said before.
async fn handled(link: &mut Link) {
    say(link, "heartbeat", serde_json::from_str(r#"{"cluster_id": "x", "agent_id": "agent-1"}"#).unwrap()).await;
    hear(link, "heartbeat_ack").await;
}

/// Why the control plane opens no link for this token.
async fn refused(server: &ControlPlane, ca: &str, token: &str) -> (u16, String) {
    let mut request = "wss://localhost/api/v1/clusters/agent/ws".into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    match tokio_tungstenite::client_async(request, server.connect(ca).await.unwrap()).await {
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            (response.status().as_u16(), String::from_utf8(body).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

/// Code and reason of the end of a link.
async fn closed(link: &mut Link) -> (u16, String) {
    let closed = timeout(SOON, async {
        loop {
            if let Message::Close(frame) = link.next().await.expect("it ends without a word").unwrap() {
                let frame = frame.expect("no reason");
                return (u16::from(frame.code), frame.reason.as_str().to_owned());
            }
        }
    });
    closed.await.expect("the link stays up")
}

/// A token's file, once it says that the token is used.
async fn used(data: &Path) -> String {
    let list = timeout(SOON, async {
        loop {
            let list = token(data, &["list"]).await;
            if list.contains("used at") {
                return list;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    list.await.expect("it is not used")
}

#[tokio::test]
async fn a_token_registers_once_and_the_agent_goes_on_with_its_own() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = ControlPlane::start(data, &[]).await;
    let ca = ca(data);
    let first = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    // One that was not kept changes nothing.
    let mut link = dial(&server, &ca, &first).await;
    register(&mut link, REGISTER).await;
    let lost = given(&mut link, false).await;
    drop(link);
    let mut link = dial(&server, &ca, &first).await;
    register(&mut link, REGISTER).await;
    let own = given(&mut link, true).await;
    assert_ne!(own, first);
    let list = used(data).await;
    assert!(list.contains("agent of cluster prod, used at") && list.contains("by agent-1"), "{list}");

    let (status, why) = refused(&server, &ca, &first).await;
    assert!(
        status == 401 && why.contains("by agent agent-1") && why.contains("token create --agent --cluster prod"),
        "{why}"
    );
    // The link that it opened stays, and each of the agent's own works, also after a restart.
    handled(&mut link).await;
    drop((link, server));
    let server = ControlPlane::start(data, &[]).await;
    for token in [&own, &lost] {
        let mut link = dial(&server, &ca, token).await;
        register(&mut link, REGISTER).await;
        given(&mut link, true).await;
    }
    // It is this agent's, and no user's.
    let mut link = dial(&server, &ca, &own).await;
    say(&mut link, "register", serde_json::from_str(&REGISTER.replace("agent-1", "agent-2")).unwrap()).await;
    let error = hear(&mut link, "error").await["error"].as_str().unwrap().to_owned();
    assert!(error.contains("belongs to agent agent-1") && error.contains("agent-2"), "{error}");
    assert_eq!(closed(&mut link).await, (1008, "registration refused".to_owned()));
    let mut connection = server.connect(&ca).await.unwrap();
    assert_eq!(crate::control_plane::get(&mut connection, "/api/v1/clusters", &own).await.0, 401);
    for changed in [own.replace(&own[own.len() - 4..], "0000"), format!("{own}0"), format!("{own}_0")] {
        assert_eq!(refused(&server, &ca, &changed).await.0, 401, "{changed}");
    }
}

#[tokio::test]
async fn a_revoked_token_takes_the_agents_own_with_it() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = ControlPlane::start(data, &[]).await;
    let ca = ca(data);
    let first = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    let mut link = dial(&server, &ca, &first).await;
    register(&mut link, REGISTER).await;
    let own = given(&mut link, true).await;
    used(data).await;
    let mut second = dial(&server, &ca, &own).await;
    register(&mut second, REGISTER).await;
    // What the agent shows is enough to revoke it.
    token(data, &["revoke", &own]).await;
    for link in [&mut link, &mut second] {
        assert_eq!(closed(link).await, (1008, "token revoked".to_owned()));
    }
    assert_eq!(refused(&server, &ca, &own).await.0, 401);
}

#[tokio::test]
async fn a_token_is_renewed_in_time_and_one_that_is_not_taken_ends_the_link() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = ControlPlane::start(data, &[("PIPEOPS_TOKENS_AGENT_LIFETIME", Path::new("4s"))]).await;
    let ca = ca(data);
    let first = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    let mut link = dial(&server, &ca, &first).await;
    register(&mut link, REGISTER).await;
    let mut own = given(&mut link, true).await;
    for _ in 0..2 {
        let next = given(&mut link, true).await;
        assert_ne!(next, own);
        own = next;
    }
    drop(link);
    let mut link = dial(&server, &ca, &own).await;
    register(&mut link, REGISTER).await;
    assert_eq!(closed(&mut link).await, (1008, "token ended".to_owned()));
    let (status, why) = refused(&server, &ca, &own).await;
    assert!(status == 401 && why.contains("ended at") && why.contains("token create"), "{why}");
}

#[tokio::test]
async fn an_agent_that_takes_no_tokens_goes_on_with_the_one_it_has() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = ControlPlane::start(data, &[]).await;
    let first = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    for _ in 0..2 {
        let mut link = dial(&server, &ca(data), &first).await;
        register(&mut link, r#"{"agent_id": "agent-1"}"#).await;
        handled(&mut link).await;
    }
}
