use std::time::Duration;

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
    assert!(peer.is_left_alone(Duration::from_secs(2)).await, "the other one came too");
    let (leading, standing_by): (Vec<_>, Vec<_>) =
        agents.into_iter().partition(|agent| agent.context.health.is_ready());
    assert_eq!((leading.len(), standing_by.len()), (1, 1));
    for agent in leading {
        agent.stop().await;
    }
    let mut link = peer.accept().await;
    link.register("").await;
    link.hear("heartbeat").await;
    standing_by[0].is_ready().await;
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
