use http::StatusCode;

use crate::agent::{Agent, options};
use crate::keeper::Keeper;
use crate::peer::Peer;

fn gateway_of(peer: &Peer) -> String {
    format!(r#","cluster_uuid":"u-1","gateway_ws_url":"{}/gate?zone=a""#, peer.url("ws"))
}

#[tokio::test]
async fn the_link_moves_to_the_gateway_and_is_resumed_there_after_a_restart() {
    let (keeper, peer, gate) = (Keeper::start().await, Peer::start().await, Peer::start().await);
    let agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    assert_eq!(link.path, "/api/v1/clusters/agent/ws");
    link.register(&gateway_of(&gate)).await;
    link.ended().await;
    let mut link = gate.accept().await;
    assert!(
        link.path.starts_with("/gate?zone=a&cluster_uuid=u-1&agent_version=")
            && link.path.contains("supports_yamux=true"),
        "{}",
        link.path
    );
    assert_eq!(link.token, "by-hand");
    // No registration: a heartbeat says who is there, under the id that registered.
    assert_eq!(link.hear("heartbeat").await["cluster_id"], "c-1");
    agent.is_ready().await;
    link.tell("gateway_hello", r#"{"use_yamux":true}"#).await;
    link.hear("gateway_hello_ack").await;
    agent.stop().await;

    let _agent = Agent::start(&keeper, options(&peer));
    let mut link = gate.accept().await;
    assert!(link.path.contains("cluster_uuid=u-1"), "{}", link.path);
    assert_eq!(link.hear("heartbeat").await["cluster_id"], "c-1");
    // What the gateway does not know is registered again.
    link.tell("error", r#"{"error":"agent is not registered"}"#).await;
    link.ended().await;
    let mut link = peer.accept().await;
    link.register("").await;
    link.hear("heartbeat").await;
    assert_eq!(keeper.stored().identity.gateway_ws_url, None);
}

#[tokio::test]
async fn a_gateway_that_is_gone_leads_to_a_new_registration() {
    let (keeper, peer, gate) = (Keeper::start().await, Peer::start().await, Peer::start().await);
    let agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    link.register(&gateway_of(&gate)).await;
    let mut link = gate.accept().await;
    link.hear("heartbeat").await;
    agent.stop().await;
    let _agent = Agent::start(&keeper, options(&peer));
    gate.refuse(StatusCode::BAD_GATEWAY, "elsewhere").await;
    let elsewhere = Peer::start().await;
    let mut link = peer.accept().await;
    assert_eq!(link.register(&gateway_of(&elsewhere)).await["cluster_id"], "c-1");
    let mut link = elsewhere.accept().await;
    link.hear("heartbeat").await;
    // One that was good for a moment only is not gone back to either.
    drop(link);
    peer.accept().await;
}
