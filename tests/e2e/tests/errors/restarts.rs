//! What outlives every process: who the agent and the cluster are.

use anyhow::{Context, Result, ensure};
use lab::{Lab, until};
use serde_json::Value;
use std::{sync::Arc, time::Duration};

const NAMESPACE: &str = "pipeops-system";
/// Those that are to end in order, and within their grace.
const OURS: [&str; 5] = ["control-plane", "gateway-link", "state-keeper", "proxy-executor", "route-syncer"];
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// The cluster as the control plane lists it.
async fn listed(lab: &Lab) -> Result<Value> {
    let ca = reqwest::Certificate::from_pem(lab.ca_pem()?.as_bytes())?;
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build()?;
    let url = format!("{}/api/v1/clusters", lab.url()?);
    let list: Value = client.get(url).bearer_auth(lab.user_token()?).send().await?.error_for_status()?.json().await?;
    let clusters = list.pointer("/clusters").and_then(Value::as_array).context("no list")?;
    ensure!(clusters.len() == 1, "one cluster was registered, and there are {list}");
    clusters.first().cloned().context("no cluster")
}

async fn object(lab: &Lab, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&lab.admin().stdout(&["get", name, "-n", NAMESPACE, "-o", "json"]).await?)?)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// (agent id, cluster id), the same in the cluster and at the control plane.
async fn identity(lab: &Lab) -> Result<(String, String)> {
    until("the cluster to be connected", BACK_WITHIN, || async {
        let state = object(lab, "configmap/pipeops-agent-state").await?;
        let (agent, cluster) = (text(&state, "/data/agent_id"), text(&state, "/data/cluster_id"));
        ensure!(!agent.is_empty() && !cluster.is_empty(), "{state}");
        let listed = listed(lab).await?;
        ensure!(text(&listed, "/status") == "connected", "{listed}");
        ensure!(text(&listed, "/id") == cluster && text(&listed, "/agent_id") == agent, "{listed} and {state}");
        ensure!(text(&listed, "/name") == lab.cluster(), "{listed}");
        anyhow::Ok((agent.to_owned(), cluster.to_owned()))
    })
    .await
}

pub async fn identities_survive_restarts_of_everything(lab: Arc<Lab>) -> Result<()> {
    let before = identity(&lab).await?;
    let ours = ["control-plane", "gateway-link", "state-keeper", "proxy-executor", "route-syncer", "nats-server"];
    for name in ours.into_iter().chain(["kube-apiserver", "etcd"]) {
        let process = lab.process(name)?;
        let ended = process.stop().await?.with_context(|| format!("{name} did not run"))?;
        ensure!(!OURS.contains(&name) || ended.code() == Some(0), "asked to end, {name} ended with {ended}");
        process.start().await?;
        lab.wait_ready(BACK_WITHIN).await.with_context(|| format!("after a restart of {name}"))?;
        ensure!(identity(&lab).await? == before, "a restart of {name} changed the identity");
    }
    // All of ours at once, without a warning.
    for name in ours {
        lab.process(name)?.kill().await?;
    }
    for name in ours {
        lab.process(name)?.start().await?;
    }
    lab.wait_ready(BACK_WITHIN).await.context("after all were killed")?;
    ensure!(identity(&lab).await? == before, "the end of all processes changed the identity");

    // Where the existing agent keeps it, so that one can replace the other.
    let state = object(&lab, "configmap/pipeops-agent-state").await?;
    let keys: Vec<&str> =
        state.pointer("/data").and_then(Value::as_object).context("no data")?.keys().map(String::as_str).collect();
    let known = ["agent_id", "cluster_config", "cluster_id", "gateway_ws_url"];
    ensure!(keys.iter().all(|key| known.contains(key)), "{keys:?}");
    for (name, value) in [("name", "pipeops-agent"), ("component", "state"), ("managed-by", "pipeops-agent")] {
        ensure!(text(&state, &format!("/metadata/labels/app.kubernetes.io~1{name}")) == value, "{state}");
    }
    // No token is written where ConfigMaps are read.
    ensure!(!state.to_string().contains(lab.agent_token()?), "the ConfigMap holds the token");
    let secrets = lab.admin().stdout(&["get", "secrets", "-n", NAMESPACE, "-o", "json"]).await?;
    let secrets: Value = serde_json::from_str(&secrets)?;
    let ours = secrets.pointer("/items").and_then(Value::as_array).into_iter().flatten();
    for secret in ours.filter(|secret| text(secret, "/metadata/name") == "pipeops-agent-secrets") {
        let keys = secret.pointer("/data").and_then(Value::as_object).into_iter().flat_map(|data| data.keys());
        for key in keys {
            let theirs = ["cluster_token", "cluster_cert_data"].contains(&key.as_str());
            ensure!(theirs || key.starts_with("link_token"), "a key {key} that nobody knows");
        }
        ensure!(text(secret, "/type") == "Opaque", "{}", text(secret, "/type"));
    }
    Ok(())
}
