//! What the existing agent leaves behind, and what is found of it.

use bus::state::{LinkToken, SaveLinkToken};
use protocol::ClusterConfig;
use serde_json::Value;

use super::*;

fn metadata(name: &str, component: &str) -> Value {
    json!({
        "name": name,
        "labels": {
            "app.kubernetes.io/name": "pipeops-agent",
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/managed-by": "pipeops-agent",
            "team": "platform",
        },
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
    })
}

/// Its two objects, with what people have put beside its keys.
fn left_behind(lab: &Lab) {
    let data = json!({"agent_id": "agent-a24174672b98d81c", "cluster_id": "c-1", "gateway_ws_url": "ws://g:1/ws", "note": "x"});
    let map = json!({"metadata": metadata("pipeops-agent-state", "state"), "data": data, "binaryData": {"b": "AA=="}});
    let data = json!({"cluster_token": "dC0x", "cluster_cert_data": "Y2VydA==", "other": "eA=="});
    let secret = json!({"metadata": metadata("pipeops-agent-secrets", "secrets"), "type": "Opaque", "data": data});
    lab.server().put(MAP, map);
    lab.server().put(SECRET, secret);
}

#[tokio::test]
async fn the_identity_is_found_and_nothing_is_written_for_it() {
    let lab = Lab::new();
    left_behind(&lab);
    let identity = lab.store.identity().await.unwrap();
    assert_eq!(identity.agent_id.as_str(), "agent-a24174672b98d81c");
    assert_eq!(identity.cluster_id.unwrap().as_str(), "c-1");
    assert_eq!(identity.gateway_ws_url.as_deref(), Some("ws://g:1/ws"));
    assert_eq!(lab.store.link_token().await.unwrap().token, None);
    assert_eq!(lab.store.config().await.unwrap().config, None);
    assert_eq!(lab.server().writes, 0);
}

#[tokio::test]
async fn what_is_not_ours_outlives_every_write() {
    let lab = Lab::new();
    left_behind(&lab);
    let token = LinkToken { token: Secret::new("l"), expires_at: "2026-11-27T12:00:00Z".parse().unwrap() };
    lab.store.save_link_token(SaveLinkToken { token: Some(token) }).await.unwrap();
    lab.store.save_config(SaveConfig { config: ClusterConfig::default() }).await.unwrap();
    lab.store.save(registration("c-1", Some("t-2"))).await.unwrap();
    lab.store.save(registration("c-2", None)).await.unwrap();
    let objects = lab.server().objects.clone();
    let (map, secret) = (&objects[MAP], &objects[SECRET]);
    for (object, component) in [(map, "state"), (secret, "secrets")] {
        let expected = metadata(object["metadata"]["name"].as_str().unwrap(), component);
        for part in ["labels", "annotations"] {
            assert_eq!(object["metadata"][part], expected[part]);
        }
    }
    assert_eq!((&map["data"]["note"], &map["binaryData"]["b"]), (&json!("x"), &json!("AA==")));
    assert_eq!(map["data"]["agent_id"], "agent-a24174672b98d81c");
    assert_eq!(secret["type"], "Opaque");
    let keys: Vec<_> = secret["data"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["cluster_cert_data", "link_token", "link_token_expires_at", "other"]);
}

#[tokio::test]
async fn a_secret_without_our_keys_is_no_earlier_registration() {
    for data in [json!({"cluster_cert_data": "Y2VydA=="}), json!({"cluster_token": "", "link_token": ""}), Value::Null]
    {
        let lab = Lab::new();
        lab.server().put(SECRET, json!({"metadata": metadata("pipeops-agent-secrets", "secrets"), "data": data}));
        assert!(lab.store.identity().await.unwrap().agent_id.as_str().starts_with("agent-"));
        assert_eq!(lab.store.link_token().await.unwrap().token, None);
        assert_eq!(lab.data(SECRET), data);
    }
}
