use std::time::Duration;

use http::StatusCode;
use tokio::time::interval;

use crate::agent::{Agent, options};
use crate::keeper::Keeper;
use crate::peer::{OURS, Peer};

#[tokio::test]
async fn a_first_registration_that_is_none_ends_the_process_with_what_was_said_but_no_secret() {
    let cases = [
        (r#"{"type":"register_success","payload":{"name":"x","token":"SEKRIT"}}"#, "no cluster UUID found"),
        (r#"{"type":"register_success","payload":{"cluster_id":"a b","token":"SEKRIT"}}"#, "is not valid"),
        (r#"{"type":"register_success","payload":{"token":"SEKRIT""#, "not a valid JSON envelope"),
        (r#"{"type":"error","payload":{"error":"no such workspace"}}"#, "no such workspace"),
    ];
    for (answer, wanted) in cases {
        let (keeper, peer) = (Keeper::start().await, Peer::start().await);
        let agent = Agent::start(&keeper, options(&peer));
        let mut link = peer.accept().await;
        link.hear("register").await;
        link.say(answer).await;
        let said = agent.failed().await;
        assert!(said.contains("the first registration was refused") && said.contains(wanted), "{answer}: {said}");
        assert!(!said.contains("SEKRIT"), "{said}");
        assert_eq!(keeper.stored().identity.cluster_id, None);
    }
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let agent = Agent::start(&keeper, options(&peer));
    assert_eq!(peer.refuse(StatusCode::UNAUTHORIZED, "who are you?").await, "by-hand");
    let said = agent.failed().await;
    assert!(said.contains("refuses this agent (401") && said.contains("who are you?"), "{said}");
}

#[tokio::test]
async fn what_is_refused_later_is_a_state_and_not_the_end() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    link.register("").await;
    agent.is_ready().await;
    drop(link);
    peer.refuse(StatusCode::FORBIDDEN, "not any more").await;
    assert!(peer.is_left_alone(Duration::from_secs(1)).await, "it asks again at once");
    assert!(!agent.context.health.is_ready());
    agent.stop().await;
}

#[tokio::test]
async fn a_registration_that_takes_its_time_is_waited_for_as_long_as_it_says_so() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let mut options = options(&peer);
    options.pipeops.timeout = runtime::Duration::from_millis(1000);
    let agent = Agent::start(&keeper, options);
    let mut link = peer.accept().await;
    link.hear("register").await;
    let mut ticks = interval(Duration::from_millis(400));
    for _ in 0..5 {
        ticks.tick().await;
        link.tell("register_in_progress", "{}").await;
    }
    link.tell("register_success", r#"{"data":{"cluster_id":"c-1"}}"#).await;
    assert_eq!(link.hear("heartbeat").await["cluster_id"], "c-1");
    agent.is_ready().await;
    // Silence is not waited for.
    drop(link);
    let mut link = peer.accept().await;
    assert_eq!(link.hear("register").await["cluster_id"], "c-1");
    link.ended().await;
    peer.accept().await;
}

#[tokio::test]
async fn a_control_plane_that_forgets_the_cluster_gets_a_registration_without_its_id() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let _agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    let first = link.register(OURS).await;
    assert_eq!((first["metadata"]["registration_mode"].as_str(), first.get("cluster_id")), (Some("fresh"), None));
    drop(link);
    let mut link = peer.accept().await;
    let again = link.register(OURS).await;
    assert_eq!(
        (again["metadata"]["registration_mode"].as_str(), &again["cluster_id"]),
        (Some("resume"), &"c-1".into())
    );
    link.tell("error", r#"{"error":"Cluster Not Found"}"#).await;
    link.ended().await;
    let mut link = peer.accept().await;
    let register = link.hear("register").await;
    assert_eq!((register["agent_id"].as_str(), register.get("cluster_id")), (Some("agent-1"), None));
    link.tell("register_success", r#"{"cluster_id":"c-2"}"#).await;
    assert_eq!(link.hear("heartbeat").await["cluster_id"], "c-2");
    assert_eq!(keeper.stored().identity.cluster_id.as_ref().unwrap().as_str(), "c-2");
}

#[tokio::test]
async fn an_id_that_is_refused_at_the_registration_is_not_sent_again() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    keeper.stored().identity.cluster_id = Some("c-0".parse().unwrap());
    let agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    assert_eq!(link.hear("register").await["cluster_id"], "c-0");
    link.tell("error", r#"{"error":"cluster not found"}"#).await;
    link.ended().await;
    let mut link = peer.accept().await;
    assert_eq!(link.register(OURS).await.get("cluster_id"), None);
    link.hear("heartbeat").await;
    assert_eq!(keeper.stored().identity.cluster_id.as_ref().unwrap().as_str(), "c-1");
    drop(link);
    // Without an id it is what it says: a refusal.
    keeper.stored().identity.cluster_id = None;
    drop(agent);
    let agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    link.hear("register").await;
    link.tell("error", r#"{"error":"cluster not found"}"#).await;
    let said = agent.failed().await;
    assert!(said.contains("cluster not found"), "{said}");
}
