use http::StatusCode;
use serde_json::Value;

use crate::agent::{Agent, options};
use crate::keeper::Keeper;
use crate::peer::{OURS, Peer};

const GIVEN: &str = r#"{"token":"given-1","expires_at":"2100-01-01T00:00:00Z"}"#;

fn stored(keeper: &Keeper) -> Option<String> {
    keeper.stored().token.as_ref().map(|token| token.token.expose().to_owned())
}

#[tokio::test]
async fn a_token_is_stored_before_it_is_acknowledged_and_shown_from_then_on() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    assert_eq!(link.token, "by-hand");
    link.register(OURS).await;
    link.tell("token_refresh", GIVEN).await;
    assert_eq!(link.wait_for("token_refresh_ack").await, Value::Object(serde_json::Map::new()));
    assert_eq!(stored(&keeper).as_deref(), Some("given-1"));
    drop(link);
    let mut link = peer.accept().await;
    assert_eq!(link.token, "given-1");
    link.register(OURS).await;
    agent.stop().await;
    // Another process of the same agent begins with it.
    let _agent = Agent::start(&keeper, options(&peer));
    assert_eq!(peer.accept().await.token, "given-1");
}

#[tokio::test]
async fn a_given_token_that_is_refused_gives_way_to_that_of_the_settings() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let _agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    link.register(OURS).await;
    link.tell("token_refresh", GIVEN).await;
    link.wait_for("token_refresh_ack").await;
    drop(link);
    assert_eq!(peer.refuse(StatusCode::UNAUTHORIZED, "it has ended").await, "given-1");
    let mut link = peer.accept().await;
    assert_eq!(link.token, "by-hand");
    link.register(OURS).await;
    assert_eq!(stored(&keeper).as_deref(), Some("given-1"), "it is kept until there is another");
    // One that ends sooner takes its place all the same.
    link.tell("token_refresh", r#"{"token":"given-2","expires_at":"2099-01-01T00:00:00Z"}"#).await;
    link.wait_for("token_refresh_ack").await;
    assert_eq!(stored(&keeper).as_deref(), Some("given-2"));
    drop(link);
    assert_eq!(peer.accept().await.token, "given-2");
}

#[tokio::test]
async fn a_replica_that_comes_second_goes_by_the_token_that_the_first_was_given() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let _agent = Agent::start(&keeper, options(&peer));
    // Between its look at what is stored and the answer that its token is used up, the first one's is stored.
    let shown = peer.refuse_after(StatusCode::UNAUTHORIZED, "used up", || {
        let token: bus::state::LinkToken = serde_json::from_str(GIVEN).unwrap();
        keeper.stored().token = Some(token);
    });
    assert_eq!(shown.await, "by-hand");
    let mut link = peer.accept().await;
    assert_eq!(link.token, "given-1");
    link.register(OURS).await;
}

#[tokio::test]
async fn a_link_comes_back_while_state_keeper_is_away() {
    let (mut keeper, peer) = (Keeper::start().await, Peer::start().await);
    let _agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    link.register(OURS).await;
    link.tell("token_refresh", GIVEN).await;
    link.wait_for("token_refresh_ack").await;
    keeper.goes_away();
    drop(link);
    let mut link = peer.accept().await;
    assert_eq!(link.token, "given-1");
    let register = link.register(OURS).await;
    assert_eq!((&register["agent_id"], &register["cluster_id"]), (&"agent-1".into(), &"c-1".into()));
    link.hear("heartbeat").await;
}
