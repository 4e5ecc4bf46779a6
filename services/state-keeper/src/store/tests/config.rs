//! What the control plane wishes of the cluster, and how it is known to every replica.

use protocol::ClusterConfig;
use protocol::config::ProxyPolicy;

use super::*;

fn wish(revision: u64) -> ClusterConfig {
    let proxy = Some(ProxyPolicy { read_only: true, ..ProxyPolicy::default() });
    ClusterConfig { revision, proxy, ..ClusterConfig::default() }
}

async fn revision(store: &Store) -> Option<u64> {
    store.config().await.unwrap().config.map(|config| config.revision)
}

fn save(revision: u64) -> SaveConfig {
    SaveConfig { config: wish(revision) }
}

#[tokio::test]
async fn it_is_kept_beside_the_identity_and_answered_from_memory() {
    let lab = Lab::new();
    let agent = lab.store.identity().await.unwrap().agent_id;
    assert_eq!(revision(&lab.store).await, None);
    lab.store.save_config(save(7)).await.unwrap();
    assert_eq!(
        lab.data(MAP),
        json!({"agent_id": agent.as_str(), "cluster_config": r#"{"revision":7,"proxy":{"read_only":true}}"#})
    );
    let writes = lab.server().writes;
    lab.store.save_config(save(7)).await.unwrap();
    assert_eq!(lab.server().writes, writes, "the same was written again");
    lab.server().fault = Some(503);
    assert_eq!(lab.store.config().await.unwrap().config, Some(wish(7)), "without the API server");
    lab.server().fault = None;
    lab.store.save_config(save(3)).await.unwrap();
    assert_eq!(revision(&lab.store).await, Some(3), "the control plane may count anew");
    lab.store.save(registration("c-1", None)).await.unwrap();
    assert_eq!(revision(&lab.restarted().store).await, Some(3));
}

#[tokio::test]
async fn before_the_first_look_it_is_unknown_and_not_none() {
    let lab = Lab::new();
    lab.store.save_config(save(7)).await.unwrap();
    lab.server().fault = Some(503);
    let restarted = lab.restarted();
    let error = restarted.store.config().await.unwrap_err();
    assert!(matches!(error, StateError::Unavailable { .. }), "{error}");
    lab.server().fault = None;
    assert_eq!(revision(&restarted.store).await, Some(7));
}

#[tokio::test]
async fn what_another_replica_saves_is_seen_with_the_next_look() {
    let lab = Lab::new();
    let other = lab.restarted();
    lab.store.save_config(save(1)).await.unwrap();
    assert_eq!(revision(&other.store).await, Some(1));
    lab.store.save_config(save(2)).await.unwrap();
    other.store.check().await.unwrap();
    assert_eq!(revision(&other.store).await, Some(2));
}

#[tokio::test]
async fn one_that_cannot_be_read_is_said_and_the_identity_served() {
    let lab = Lab::new();
    let broken = json!({"agent_id": "agent-x", "cluster_id": "c-1", "cluster_config": r#"{"revision":"#});
    lab.server().put(MAP, json!({"metadata": {"name": "pipeops-agent-state"}, "data": broken}));
    assert_eq!(lab.store.identity().await.unwrap().agent_id.as_str(), "agent-x");
    let error = lab.store.config().await.unwrap_err();
    assert!(
        matches!(&error, StateError::Corrupt { reason } if reason.contains("ConfigMap ns/") && reason.contains("cluster_config")),
        "{error}"
    );
    assert!(lab.health.not_ready().iter().any(|reason| reason.starts_with("config: ")), "{:?}", lab.health);
    lab.store.save(registration("c-1", None)).await.unwrap();
    assert_eq!(lab.data(MAP)["cluster_config"], r#"{"revision":"#);

    lab.store.save_config(save(9)).await.unwrap();
    assert_eq!(revision(&lab.store).await, Some(9));
    assert_eq!(lab.data(MAP)["cluster_config.corrupt"], r#"{"revision":"#);
    assert!(lab.health.is_ready(), "{:?}", lab.health);
}

#[tokio::test]
async fn one_that_cannot_be_meant_is_refused() {
    let lab = Lab::new();
    let config = ClusterConfig { heartbeat_interval_seconds: Some(0), ..ClusterConfig::default() };
    let error = lab.store.save_config(SaveConfig { config }).await.unwrap_err();
    assert!(
        matches!(&error, StateError::Invalid { reason } if reason.contains("heartbeat_interval_seconds")),
        "{error}"
    );
    assert!(lab.server().objects.is_empty());
}

#[tokio::test]
async fn it_comes_back_with_a_lost_config_map() {
    let lab = Lab::new();
    lab.store.save_config(save(4)).await.unwrap();
    lab.server().objects.remove(MAP);
    lab.store.identity().await.unwrap();
    assert_eq!(lab.data(MAP)["cluster_config"], r#"{"revision":4,"proxy":{"read_only":true}}"#);
}
