use std::sync::Arc;

use protocol::Secret;
use serde_json::json;

use super::*;
use crate::fake::{Lab, MAP, SECRET};

mod config;
mod in_a_file;
mod migration;
mod tokens;

fn registration(cluster: &str, token: Option<&str>) -> SaveRegistration {
    SaveRegistration {
        cluster_id: cluster.parse().unwrap(),
        gateway_ws_url: Some(format!("wss://{cluster}/ws")),
        cluster_token: token.map(Secret::new),
    }
}

#[tokio::test]
async fn the_agent_id_is_made_once_and_kept() {
    let lab = Lab::new();
    let first = lab.store.identity().await.unwrap();
    let id = first.agent_id.as_str();
    assert!(id.len() == 22 && id.starts_with("agent-") && id[6..].bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_eq!((first.cluster_id.as_ref(), first.gateway_ws_url.as_ref()), (None, None));
    assert_eq!(lab.store.identity().await.unwrap(), first);
    assert_eq!(lab.restarted().store.identity().await.unwrap(), first);
    assert_eq!(lab.server().writes, 1);
    assert_ne!(Lab::new().store.identity().await.unwrap().agent_id, first.agent_id);
}

#[tokio::test]
async fn a_registration_survives_a_restart() {
    let lab = Lab::new();
    let agent = lab.store.identity().await.unwrap().agent_id;
    let saved = lab.store.save(registration("c-1", Some("t-1"))).await.unwrap();
    assert_eq!(saved.agent_id, agent);
    assert_eq!(lab.restarted().store.identity().await.unwrap(), saved);
    assert_eq!(
        lab.data(MAP),
        json!({"agent_id": agent.as_str(), "cluster_id": "c-1", "gateway_ws_url": "wss://c-1/ws"})
    );
    assert_eq!(lab.data(SECRET), json!({"cluster_token": "dC0x"}));
    let writes = lab.server().writes;
    lab.store.save(registration("c-1", Some("t-1"))).await.unwrap();
    lab.store.save(registration("c-1", None)).await.unwrap();
    assert_eq!(lab.server().writes, writes, "nothing new was written again");
    assert_eq!(lab.data(SECRET), json!({"cluster_token": "dC0x"}));
}

#[tokio::test]
async fn a_new_cluster_does_not_inherit_the_token_of_the_old_one() {
    let lab = Lab::new();
    lab.store.save(registration("c-1", Some("t-1"))).await.unwrap();
    let agent = lab.store.identity().await.unwrap().agent_id;
    let moved = lab.store.save(registration("c-2", None)).await.unwrap();
    assert_eq!((moved.agent_id, moved.cluster_id.unwrap().as_str()), (agent, "c-2"));
    assert_eq!(lab.data(SECRET), json!({}));
}

#[tokio::test]
async fn what_others_keep_in_the_objects_stays() {
    let lab = Lab::new();
    lab.server().put(MAP, json!({"metadata": {"name": "pipeops-agent-state", "labels": {"a": "b"}}, "data": {"agent_id": "agent-old", "theirs": "x"}}));
    lab.server()
        .put(SECRET, json!({"metadata": {"name": "pipeops-agent-secrets"}, "data": {"cluster_cert_data": "Y2VydA=="}}));
    let saved = lab.store.save(registration("c-1", Some("t-1"))).await.unwrap();
    assert_eq!(saved.agent_id.as_str(), "agent-old");
    assert_eq!(lab.data(MAP)["theirs"], "x");
    assert_eq!(lab.server().objects[MAP]["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(lab.data(SECRET), json!({"cluster_cert_data": "Y2VydA==", "cluster_token": "dC0x"}));
}

#[tokio::test]
async fn a_write_of_somebody_else_is_seen_and_not_overwritten() {
    let lab = Lab::new();
    lab.server().rival = Some((1, [("agent_id".to_owned(), "agent-rival".to_owned())].into()));
    assert_eq!(lab.store.identity().await.unwrap().agent_id.as_str(), "agent-rival");
    assert_eq!(lab.data(MAP), json!({"agent_id": "agent-rival"}));

    // The same between reading and replacing.
    lab.server().rival =
        Some((3, [("agent_id".to_owned(), "agent-rival".to_owned()), ("x".to_owned(), "y".to_owned())].into()));
    let saved = lab.store.save(registration("c-1", None)).await.unwrap();
    assert_eq!(saved.cluster_id.unwrap().as_str(), "c-1");
    assert_eq!(lab.data(MAP)["x"], "y");
}

#[tokio::test]
async fn two_replicas_make_one_agent_id() {
    let lab = Lab::new();
    let others: Vec<_> = (0..8).map(|_| lab.restarted()).collect();
    let tasks: Vec<_> = others.into_iter().map(|lab| tokio::spawn(async move { lab.store.identity().await })).collect();
    let expected = lab.store.identity().await.unwrap();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), expected);
    }
    assert_eq!(lab.server().writes, 1);
}

#[tokio::test]
async fn of_two_registrations_at_once_the_later_is_told_of_the_earlier() {
    let lab = Lab::new();
    lab.store.identity().await.unwrap();
    let data = [("agent_id", "agent-x"), ("cluster_id", "c-rival")];
    lab.server().rival = Some((1, data.map(|(k, v)| (k.to_owned(), v.to_owned())).into()));
    let error = lab.store.save(registration("c-1", None)).await.unwrap_err();
    assert_eq!(error, StateError::OtherCluster { stored: "c-rival".parse().unwrap() });
    assert_eq!(lab.data(MAP)["cluster_id"], "c-rival");
}

#[tokio::test]
async fn endless_rivalry_ends_in_an_error() {
    let lab = Lab::new();
    lab.server().rival = Some((usize::MAX, [("agent_id".to_owned(), "a".to_owned())].into()));
    let error = lab.store.save(registration("c-1", None)).await.unwrap_err();
    assert!(matches!(&error, StateError::Unavailable { reason } if reason.contains("changed by others")), "{error}");
}

#[tokio::test]
async fn a_corrupt_object_is_reported_and_left_alone() {
    for (data, says) in [
        (json!({"agent_id": "no good"}), "agent_id"),
        (json!({"cluster_id": "c"}), "no agent_id"),
        (json!({"agent_id": "a", "cluster_id": "c/d"}), "cluster_id"),
    ] {
        let lab = Lab::new();
        lab.server().put(MAP, json!({"metadata": {"name": "pipeops-agent-state"}, "data": data}));
        for outcome in [lab.store.identity().await, lab.store.save(registration("c-1", Some("t"))).await] {
            let error = outcome.unwrap_err();
            assert!(
                matches!(&error, StateError::Corrupt { reason } if reason.contains(says) && reason.contains("ConfigMap ns/")),
                "{error}"
            );
        }
        assert_eq!((lab.data(MAP), lab.server().writes), (data, 0));
        assert!(!lab.health.is_ready());
    }
    let lab = Lab::new();
    lab.server().put(SECRET, json!({"metadata": {"name": "pipeops-agent-secrets"}, "data": {"cluster_token": "/w=="}}));
    lab.server().put(MAP, json!({"metadata": {"name": "pipeops-agent-state"}, "data": {"agent_id": "a"}}));
    let error = lab.store.save(registration("c-1", Some("t"))).await.unwrap_err();
    assert!(matches!(&error, StateError::Corrupt { reason } if reason.contains("Secret ns/")), "{error}");
    assert_eq!(lab.server().writes, 0);
}

#[tokio::test]
async fn a_lost_config_map_never_makes_a_second_identity() {
    let lab = Lab::new();
    let saved = lab.store.save(registration("c-1", Some("t-1"))).await.unwrap();
    lab.server().objects.remove(MAP);
    assert_eq!(lab.store.identity().await.unwrap(), saved, "restored from memory");
    assert_eq!(lab.data(MAP)["agent_id"], saved.agent_id.as_str());

    lab.server().objects.remove(MAP);
    let restarted = lab.restarted();
    let error = restarted.store.identity().await.unwrap_err();
    assert!(matches!(&error, StateError::Corrupt { reason } if reason.contains("is gone")), "{error}");
    assert!(!lab.server().objects.contains_key(MAP));
    let configured = Lab::of(Arc::clone(&lab.server), Some("agent-fixed"));
    assert_eq!(configured.store.identity().await.unwrap().agent_id.as_str(), "agent-fixed");
}

#[tokio::test]
async fn a_configured_agent_id_wins() {
    let lab = Lab::new();
    lab.store.save(registration("c-1", None)).await.unwrap();
    let configured = Lab::of(Arc::clone(&lab.server), Some("agent-fixed"));
    let identity = configured.store.identity().await.unwrap();
    assert_eq!((identity.agent_id.as_str(), identity.cluster_id.unwrap().as_str()), ("agent-fixed", "c-1"));
    assert_eq!(lab.data(MAP)["agent_id"], "agent-fixed");
}

#[tokio::test]
async fn without_the_api_server_the_last_known_identity_is_answered_and_nothing_is_saved() {
    let lab = Lab::new();
    lab.server().fault = Some(503);
    let error = lab.store.identity().await.unwrap_err();
    assert!(
        matches!(&error, StateError::Unavailable { reason } if reason.contains("answered 503") && reason.contains("ns/pipeops-agent-state")),
        "{error}"
    );
    assert!(!lab.health.is_ready());

    lab.server().fault = None;
    let saved = lab.store.save(registration("c-1", None)).await.unwrap();
    assert!(lab.health.is_ready());
    for fault in [503, 500, 403, 401] {
        lab.server().fault = Some(fault);
        // 401 makes the client be built anew, which cannot succeed here: still the same answer.
        assert_eq!(lab.store.identity().await.unwrap(), saved);
        let error = lab.store.save(registration("c-2", None)).await.unwrap_err();
        assert!(matches!(&error, StateError::Unavailable { .. }), "{error}");
        assert!(lab.store.check().await.is_err() && !lab.health.is_ready());
    }
}

#[tokio::test]
async fn an_api_server_that_never_answers_is_an_error_in_time() {
    let lab = Lab::new();
    lab.server().silent = true;
    let started = tokio::time::Instant::now();
    let error = lab.store.save(registration("c-1", None)).await.unwrap_err();
    assert!(matches!(&error, StateError::Unavailable { reason } if reason.contains("within 200 ms")), "{error}");
    assert!(started.elapsed() < bus::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn looking_at_the_state_changes_nothing() {
    let lab = Lab::new();
    lab.store.check().await.unwrap();
    assert!(lab.health.is_ready() && lab.server().objects.is_empty());
}
