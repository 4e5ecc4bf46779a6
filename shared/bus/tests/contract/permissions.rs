//! The rights of the table: enough for what services do, and no more.

use std::fmt::Write as _;

use bus::{
    OpenError, OpenHeader, RequestError, Service,
    state::{GetIdentity, Identity, SaveRegistration},
    subjects,
};
use bytes::Bytes;
use protocol::{AgentId, ClusterId, StreamKind};
use std::time::{Duration, Instant};

use crate::harness::{Backend, echo, open, round_trip, within};

/// A server with one user per service, as the chart makes them.
pub fn server_config() -> String {
    let mut users = String::new();
    for service in Service::ALL {
        let permissions = subjects::permissions(service);
        let list = |allowed: &[String]| match allowed {
            [] => "{ deny: \">\" }".to_owned(),
            allowed => format!("{{ allow: {} }}", serde_json::to_string(allowed).unwrap()),
        };
        writeln!(
            users,
            "{{ user: \"{service}\", password: \"{service}-password\", permissions {{ publish {}, subscribe {} {} }} }}",
            list(&permissions.publish),
            list(&permissions.subscribe),
            if permissions.allow_responses { ", allow_responses: true" } else { "" },
        )
        .unwrap();
    }
    format!("authorization {{ users: [\n{users}] }}\n")
}

#[tokio::test]
async fn the_table_is_enough_and_enforced_on_nats() {
    the_table_is_enough_and_enforced(&Backend::nats_restricted().await).await;
}

#[tokio::test]
async fn the_table_is_enough_and_enforced_locally() {
    the_table_is_enough_and_enforced(&Backend::local_restricted().await).await;
}

async fn the_table_is_enough_and_enforced(backend: &Backend) {
    let link = backend.bus(Service::GatewayLink).await;
    let executor = backend.bus(Service::ProxyExecutor).await;
    let keeper = backend.bus(Service::StateKeeper).await;

    let _serving = keeper
        .serve::<GetIdentity, _, _>(async |_| {
            Ok(Identity { agent_id: AgentId::new("agent-1").unwrap(), cluster_id: None, gateway_ws_url: None })
        })
        .await
        .unwrap();
    let begun = Instant::now();
    let identity = loop {
        match link.request(&GetIdentity {}).await {
            Ok(identity) => break identity,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(5), "{error}"),
        }
    };
    assert_eq!(identity.agent_id.as_str(), "agent-1");

    let accepting = echo(executor.listen(StreamKind::Kube).await.unwrap());
    let mut stream = open(&link, b"").await;
    round_trip(&mut stream, b"through the table's rights").await;
    accepting.abort();

    let save = SaveRegistration {
        cluster_id: ClusterId::new("c1").unwrap(),
        gateway_ws_url: None,
        cluster_token: Some(protocol::Secret::new("t")),
    };
    let denied = within(Duration::from_secs(2), "a denied request is answered", executor.request(&save)).await;
    assert!(matches!(&denied, Err(RequestError::Denied(subject)) if subject.contains("registration")), "{denied:?}");
    let opening = keeper.open(StreamKind::Kube, OpenHeader::default(), Bytes::new());
    let denied = within(Duration::from_secs(4), "a denied open is answered", opening).await;
    assert!(matches!(denied, Err(OpenError::Denied(_))), "{denied:?}");
}

#[test]
fn a_token_reaches_state_keeper_and_no_log() {
    let save = SaveRegistration {
        cluster_id: ClusterId::new("c1").unwrap(),
        gateway_ws_url: None,
        cluster_token: Some(protocol::Secret::new("s3cret")),
    };
    assert!(!format!("{save:?}").contains("s3cret"));
    let wire = serde_json::to_string(&save).unwrap();
    let read: SaveRegistration = serde_json::from_str(&wire).unwrap();
    assert_eq!(read.cluster_token.unwrap().expose(), "s3cret");
}
