//! An agent's tokens, what the control plane wishes of its cluster, and what it says of itself: from the command line to kubectl.

use anyhow::{Context, Result, ensure};
use e2e::{Protocol, client::Target};
use lab::{Lab, Options, until};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// Twice as long as a heartbeat takes to come: the first says only what is known at once.
const SOON: Duration = Duration::from_secs(60);

/// The lab's cluster, as the control plane's list shows it, once this holds.
async fn cluster(lab: &Lab, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
    let url = format!("{}/api/v1/clusters", lab.url()?);
    let client = Target::new(lab, lab.cluster())?.http(Protocol::Http1)?;
    until(what, SOON, || async {
        let list: Value = client.get(&url).send().await?.json().await?;
        let found = list.pointer("/clusters/0").cloned().context("no cluster")?;
        ensure!(holds(&found), "{found}");
        anyhow::Ok(found)
    })
    .await
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

/// The line of `token list` that speaks of the agent's first token.
async fn first_token(lab: &Lab, what: &str, says: &str) -> Result<String> {
    until(what, SOON, || async {
        let list = lab.control_plane(&["token", "list"]).await?;
        let line = list.lines().find(|line| line.contains("agent of cluster lab")).context("no such token")?;
        ensure!(line.contains(says), "{line}");
        anyhow::Ok(line.to_owned())
    })
    .await
}

async fn link_token(lab: &Lab) -> Result<String> {
    let get = ["get", "secret", "-n", "pipeops-system", "pipeops-agent-secrets", "-o", "jsonpath={.data.link_token}"];
    until("the agent's token in its Secret", SOON, || async {
        let token = lab.admin().stdout(&get).await?;
        ensure!(!token.is_empty(), "there is none");
        anyhow::Ok(token)
    })
    .await
}

#[tokio::test]
async fn an_agent_goes_by_tokens_that_are_renewed_until_the_first_is_revoked() -> Result<()> {
    let short = BTreeMap::from([("PIPEOPS_TOKENS_AGENT_LIFETIME".to_owned(), "10s".to_owned())]);
    let lab = Lab::start(Options { control_plane_env: short, ..Options::default() }).await?;
    let line = first_token(&lab, "the first token to be used up", "used at").await?;
    let before = link_token(&lab).await?;
    until("another token in the Secret", SOON, || async {
        let now = link_token(&lab).await?;
        ensure!(now != before, "it is the same");
        anyhow::Ok(())
    })
    .await?;
    // With what is stored, and not with the used one of its settings.
    let link = lab.process("gateway-link")?;
    link.restart().await?;
    lab.wait_ready(SOON).await?;
    let listed = lab.kubectl(&["get", "namespaces"]).await?;
    ensure!(listed.stdout.contains("kube-system"), "{listed:?}");
    let log = std::fs::read_to_string(link.log())?;
    ensure!(!log.contains("that of the settings accepted"), "its own token was refused");
    ensure!(!log.contains(lab.agent_token()?), "the log shows a token");

    let id = line.split_whitespace().next().context("no id")?;
    lab.control_plane(&["token", "revoke", id]).await?;
    cluster(&lab, "the cluster to be offline", |cluster| at(cluster, "/status") == "disconnected").await?;
    until("gateway-link to say why", SOON, || async {
        let why = link.ready().await.err().map(|error| format!("{error:#}"));
        ensure!(why.as_ref().is_some_and(|why| why.contains("refuses this agent (401")), "{why:?}");
        anyhow::Ok(())
    })
    .await?;
    lab.stop().await
}

#[tokio::test]
async fn what_is_wished_of_a_cluster_is_in_force_and_what_it_says_of_itself_is_shown() -> Result<()> {
    let lab = Lab::start(Options::default()).await?;
    let heard = cluster(&lab, "a heartbeat that knows the cluster", |cluster| {
        at(cluster, "/heartbeat/k8s_version").as_str().is_some_and(|version| version.starts_with('v'))
            && at(cluster, "/heartbeat/components/state-keeper/status") == "ready"
    })
    .await?;
    ensure!(at(&heard, "/heartbeat/components/proxy-executor/status") == "ready", "{heard}");
    ensure!(at(&heard, "/heartbeat/k8s_age_seconds").is_u64(), "{heard}");

    let file = lab.folder().join("wish.yaml");
    let set = ["config", "set", "--cluster", "lab", &file.display().to_string()].map(str::to_owned);
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let create = ["create", "configmap", "wished", "-n", "default", "--dry-run=server"];
    std::fs::write(&file, "proxy: {read_only: true}\nheartbeat_interval_seconds: 1\nmonitoring: {enabled: true}\n")?;
    lab.control_plane(&set).await?;
    let shown = cluster(&lab, "the agent's answer", |cluster| at(cluster, "/config/revision") == 1).await?;
    ensure!(at(&shown, "/config/accepted").as_array().is_some_and(|list| list.len() == 2), "{shown}");
    let reason = at(&shown, "/config/refused/0/reason").as_str().unwrap_or_default();
    ensure!(reason == "no components-installer runs in this cluster", "{shown}");
    until("writes to be refused", SOON, || async {
        let made = lab.kubectl(&create).await?;
        ensure!(!made.success() && made.stderr.contains("the control plane"), "{made:?}");
        anyhow::Ok(())
    })
    .await?;
    let listed = lab.kubectl(&["get", "namespaces"]).await?;
    ensure!(listed.stdout.contains("kube-system"), "{listed:?}");
    // As it was stored, also where the control plane is not asked.
    for name in ["proxy-executor", "state-keeper", "gateway-link"] {
        lab.process(name)?.restart().await?;
    }
    lab.wait_ready(SOON).await?;
    let made = lab.kubectl(&create).await?;
    ensure!(!made.success() && made.stderr.contains("the control plane"), "{made:?}");

    std::fs::write(&file, "{}")?;
    lab.control_plane(&set).await?;
    until("writes to be allowed", SOON, || async {
        let made = lab.kubectl(&create).await?;
        ensure!(made.success(), "{made:?}");
        anyhow::Ok(())
    })
    .await?;
    lab.stop().await
}
