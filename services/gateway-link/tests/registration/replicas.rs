use crate::agent::{Agent, options};
use crate::keeper::Keeper;
use crate::peer::{OURS, Peer};

#[tokio::test]
async fn a_control_plane_that_takes_one_link_gets_one_and_the_next_when_that_goes() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let agents = [Agent::start(&keeper, options(&peer)), Agent::start(&keeper, options(&peer))];
    let mut link = peer.accept().await;
    link.register("").await;
    link.hear("heartbeat").await;
    let [one, other] = &agents;
    let one_leads = tokio::select! {
        () = one.is_ready() => true,
        () = other.is_ready() => false,
    };
    let [one, other] = agents;
    let (leading, standing_by) = if one_leads { (one, other) } else { (other, one) };
    standing_by.waits("standing by").await;
    leading.stop().await;
    let mut link = peer.accept().await;
    link.register("").await;
    link.hear("heartbeat").await;
    standing_by.is_ready().await;
}

#[tokio::test]
async fn a_control_plane_that_takes_several_gets_one_of_each_replica() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let _agents = [Agent::start(&keeper, options(&peer)), Agent::start(&keeper, options(&peer))];
    let mut links = Vec::new();
    for _ in 0..2 {
        let mut link = peer.accept().await;
        link.register(OURS).await;
        link.hear("heartbeat").await;
        links.push(link);
    }
    assert!(keeper.stored().leases.is_empty());
}

#[tokio::test]
async fn those_that_stand_by_come_once_the_hello_says_that_several_may() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let [one, other] = [Agent::start(&keeper, options(&peer)), Agent::start(&keeper, options(&peer))];
    let mut first = peer.accept().await;
    first.register(r#","capabilities":["streams/2"]"#).await;
    first.hear("heartbeat").await;
    tokio::select! {
        () = one.waits("standing by") => {}
        () = other.waits("standing by") => {}
    }
    first.tell("gateway_hello", r#"{"use_yamux":true,"capabilities":["streams/2","links/n"]}"#).await;
    first.hear("gateway_hello_ack").await;
    let mut second = peer.accept().await;
    second.register("").await;
    second.hear("heartbeat").await;
    first.tell("ping", "{}").await;
    first.wait_for("pong").await;
}
