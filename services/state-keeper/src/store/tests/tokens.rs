//! The token to connect with, and the existing agent's beside it.

use bus::state::{LinkToken, SaveLinkToken};

use super::*;

fn link(token: &str, hour: u8) -> LinkToken {
    LinkToken { token: Secret::new(token), expires_at: format!("2026-11-27T{hour:02}:00:00Z").parse().unwrap() }
}

fn save(token: &str, hour: u8) -> SaveLinkToken {
    SaveLinkToken { token: Some(link(token, hour)) }
}

async fn stored(store: &Store) -> Option<LinkToken> {
    store.link_token().await.unwrap().token
}

#[tokio::test]
async fn the_one_that_lasts_longest_is_kept() {
    let lab = Lab::new();
    assert_eq!(stored(&lab.store).await, None);
    lab.store.save_link_token(save("a", 12)).await.unwrap();
    lab.store.save_link_token(save("b", 11)).await.unwrap();
    assert_eq!(stored(&lab.store).await, Some(link("a", 12)), "one that ends sooner took its place");
    lab.store.save_link_token(save("c", 12)).await.unwrap();
    lab.store.save_link_token(save("d", 13)).await.unwrap();
    assert_eq!(stored(&lab.restarted().store).await, Some(link("d", 13)));
    assert_eq!(
        lab.data(SECRET),
        json!({"link_token": "ZA==", "link_token_expires_at": "MjAyNi0xMS0yN1QxMzowMDowMFo="})
    );
    let writes = lab.server().writes;
    lab.store.save_link_token(save("d", 13)).await.unwrap();
    assert_eq!(lab.server().writes, writes, "the same was written again");
    lab.store.save_link_token(SaveLinkToken { token: None }).await.unwrap();
    assert_eq!((stored(&lab.store).await, lab.data(SECRET)), (None, json!({})));
    lab.store.save_link_token(save("e", 1)).await.unwrap();
    assert_eq!(stored(&lab.store).await, Some(link("e", 1)));
}

#[tokio::test]
async fn it_is_never_the_token_of_kubernetes() {
    let lab = Lab::new();
    let kept = json!({"cluster_token": "dC0x", "cluster_cert_data": "Y2VydA=="});
    lab.server().put(SECRET, json!({"metadata": {"name": "pipeops-agent-secrets"}, "data": kept}));
    lab.server().put(MAP, json!({"metadata": {"name": "pipeops-agent-state"}, "data": {"agent_id": "agent-old"}}));
    assert_eq!(stored(&lab.store).await, None);
    lab.store.save_link_token(save("l", 12)).await.unwrap();
    assert_eq!(lab.data(SECRET)["cluster_token"], "dC0x");
    lab.store.save_link_token(SaveLinkToken { token: None }).await.unwrap();
    assert_eq!(lab.data(SECRET), kept);
    lab.store.save_link_token(SaveLinkToken { token: None }).await.unwrap();
    assert_eq!(lab.server().writes, 2);
}

#[tokio::test]
async fn taking_away_what_is_not_there_makes_nothing() {
    let lab = Lab::new();
    lab.store.save_link_token(SaveLinkToken { token: None }).await.unwrap();
    assert!(lab.server().objects.is_empty());
}

#[tokio::test]
async fn it_is_stored_after_the_agent_id_and_says_that_there_was_one() {
    let lab = Lab::new();
    lab.store.save_link_token(save("l", 12)).await.unwrap();
    assert!(lab.server().objects.contains_key(MAP));
    lab.server().objects.remove(MAP);
    let error = lab.restarted().store.identity().await.unwrap_err();
    assert!(matches!(&error, StateError::Corrupt { reason } if reason.contains("is gone")), "{error}");
}

#[tokio::test]
async fn one_that_cannot_be_read_is_said_and_the_next_replaces_it() {
    for data in [json!({"link_token": "/w=="}), json!({"link_token": "YQ=="})] {
        let lab = Lab::new();
        lab.server().put(SECRET, json!({"metadata": {"name": "pipeops-agent-secrets"}, "data": data}));
        lab.server().put(MAP, json!({"metadata": {"name": "pipeops-agent-state"}, "data": {"agent_id": "a"}}));
        let error = lab.store.link_token().await.unwrap_err();
        assert!(matches!(&error, StateError::Corrupt { reason } if reason.contains("Secret ns/")), "{error}");
        lab.store.save_link_token(save("l", 12)).await.unwrap();
        assert_eq!(stored(&lab.store).await, Some(link("l", 12)));
    }
}

#[tokio::test]
async fn without_the_api_server_there_is_none_to_be_had() {
    let lab = Lab::new();
    lab.store.save_link_token(save("l", 12)).await.unwrap();
    lab.server().fault = Some(503);
    let error = lab.store.link_token().await.unwrap_err();
    assert!(matches!(error, StateError::Unavailable { .. }), "{error}");
}
