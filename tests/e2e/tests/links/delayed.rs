//! 60 ms of round trip between agent and control plane.

use crate::ground::Ground;
use anyhow::{Context, Result, ensure};
use lab::{Lab, until};
use serde_json::Value;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const ONE_WAY: Duration = Duration::from_millis(30);
/// TCP, TLS, the WebSocket, the registration and the hello are a round trip each, and kubectl asks more than once.
const SOON: Duration = Duration::from_secs(10);
/// The control plane looks for a new configuration each second.
const PUSHED_WITHIN: Duration = Duration::from_secs(5);

pub async fn over_a_long_way_kubectl_renewals_and_configurations_pass(lab: Arc<Lab>) -> Result<()> {
    let ground = Ground::begin(&lab).await?;
    let outcome = delayed(&ground).await;
    ground.end().await?;
    outcome
}

async fn delayed(ground: &Ground) -> Result<()> {
    let lab = &ground.lab;
    ground.link.delay(ONE_WAY);
    let renewed = renewals(ground)?;
    // With each link the agent is given a token.
    ground.link.cut();
    until("a new link, and a token that was given over it", SOON, || async {
        ground.gateway_link.ready().await?;
        let now = renewals(ground)?;
        ensure!(now > renewed, "{now} renewals, {renewed} before");
        Ok(())
    })
    .await?;

    let begun = Instant::now();
    lab.kubectl(&["get", "namespaces"]).await.and_then(|output| {
        ensure!(output.success() && output.stdout.contains("kube-system"), "kubectl get: {output:?}");
        ensure!(begun.elapsed() > 2 * ONE_WAY, "the way is not delayed: {:?}", begun.elapsed());
        Ok(())
    })?;
    lab.proxied()?.stdout(&["create", "configmap", "far", "--from-literal=way=long"]).await?;
    let value = lab.proxied()?.stdout(&["get", "configmap", "far", "-o", "jsonpath={.data.way}"]).await?;
    ensure!(value == "long", "{value:?}");
    lab.proxied()?.stdout(&["delete", "configmap", "far"]).await?;

    let file = lab.folder().join("far.yaml");
    std::fs::write(&file, "heartbeat_interval_seconds: 20\n")?;
    let set = ["config", "set", &file.display().to_string(), "--cluster", lab.cluster()];
    let said = lab.control_plane(&set).await?;
    until("the configuration to be acknowledged", PUSHED_WITHIN, || async {
        let ack = acknowledged(lab).await?;
        let revision = ack.pointer("/revision").and_then(Value::as_u64).context("none is")?;
        ensure!(said.contains(&format!("configuration {revision} of")), "{said} and {ack}");
        ensure!(ack.pointer("/accepted/0").is_some(), "not in force: {ack}");
        Ok(())
    })
    .await
}

/// How many tokens the agent says that it keeps.
fn renewals(ground: &Ground) -> Result<usize> {
    let log = std::fs::read_to_string(ground.gateway_link.log())?;
    Ok(log.lines().filter(|line| line.contains("the token is renewed")).count())
}

/// What the agent answered to its last configuration.
async fn acknowledged(lab: &Lab) -> Result<Value> {
    let ca = reqwest::Certificate::from_pem(lab.ca_pem()?.as_bytes())?;
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build()?;
    let url = format!("{}/api/v1/clusters", lab.url()?);
    let list: Value = client.get(url).bearer_auth(lab.user_token()?).send().await?.error_for_status()?.json().await?;
    let clusters = list.pointer("/clusters").and_then(Value::as_array).context("no list")?;
    let of_lab = clusters.iter().find(|it| it.pointer("/name").and_then(Value::as_str) == Some(lab.cluster()));
    of_lab.and_then(|it| it.get("config")).cloned().with_context(|| format!("nothing is acknowledged: {list}"))
}
