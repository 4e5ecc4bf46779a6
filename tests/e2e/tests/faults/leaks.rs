//! Opened and abandoned, again and again.

use anyhow::{Context, Result, bail, ensure};
use e2e::{Protocol, gauges::Look, stage::Stage};
use lab::{Process, until};
use std::time::Duration;

const WARM_UP: usize = 40;
const CYCLES: usize = 200;
/// A request is on its way when the backend has it.
const ARRIVES: Duration = Duration::from_secs(5);
/// What is abandoned is gone within this on every hop.
const GONE: Duration = Duration::from_secs(3);
/// Growth over the cycles that is no leak: pools and the allocator's leavings. One leaked stream or task per cycle would be 200, one
/// leaked 64 KiB buffer per cycle 12.5 MiB.
const MORE_OPEN: f64 = 8.0;
const MORE_MEMORY: u64 = 8 << 20;
/// What ends with the request it belongs to.
const ACTIVE: [&str; 5] = [
    "pipeops_control_plane_requests_active",
    "pipeops_control_plane_connections",
    "pipeops_agent_yamux_active_streams",
    "pipeops_agent_proxy_requests_active",
    "tokio_alive_tasks",
];

pub async fn what_is_opened_and_abandoned_leaves_nothing_behind(stage: &Stage) -> Result<()> {
    let clients = [stage.kube()?.http(Protocol::Http2)?, stage.plain()?.http(Protocol::Http2)?];
    for cycle in 0..WARM_UP {
        abandon(stage, &clients, cycle).await.with_context(|| format!("warm-up {cycle}"))?;
    }
    let lab = stage.lab.processes().iter().map(|process| &**process);
    let processes: Vec<&Process> = lab.chain(stage.side.processes()).filter(|process| is_on_the_way(process)).collect();
    let watching = longrunning(stage).await?;
    let before = settled(&processes, None).await?;
    for cycle in WARM_UP..WARM_UP + CYCLES {
        abandon(stage, &clients, cycle).await.with_context(|| format!("cycle {cycle}"))?;
    }
    until("the API server's watches to end", GONE, || async {
        let now = longrunning(stage).await?;
        ensure!(now <= watching, "{now} watches, {watching} before");
        Ok(())
    })
    .await?;
    until("the backend's exchanges to end", GONE, || async {
        ensure!(stage.backend.open() == 0, "{} are open", stage.backend.open());
        Ok(())
    })
    .await?;
    let after = settled(&processes, Some(&before)).await?;
    for (before, after) in before.iter().zip(&after) {
        println!(
            "{}: {} KiB -> {} KiB, {} -> {} descriptors, {} -> {} tasks",
            before.name,
            before.rss / 1024,
            after.rss / 1024,
            before.fds,
            after.fds,
            before.metric("tokio_alive_tasks"),
            after.metric("tokio_alive_tasks"),
        );
        ensure!(
            after.rss <= before.rss + MORE_MEMORY,
            "{} grew from {} to {} bytes",
            before.name,
            before.rss,
            after.rss
        );
    }
    Ok(())
}

fn is_on_the_way(process: &Process) -> bool {
    let name = process.name();
    ["control-plane", "gateway-link", "proxy-executor", "nats-server"].iter().any(|part| name.ends_with(part))
}

/// One of each: a watch, a half-read answer, a half-sent upload, a request without an answer, on both clusters and both protocols.
async fn abandon(stage: &Stage, clients: &[reqwest::Client; 2], cycle: usize) -> Result<()> {
    let (kube, plain) = (stage.kube()?, stage.plain()?);
    let [download, upload, hang] = ["download", "upload", "hang"].map(|what| format!("{what}-{cycle}"));
    let watch = "/api/v1/namespaces/kube-system/configmaps?watch=1";
    let half_read = format!("/download?id={download}&size=50000000");
    let mut wires = Vec::new();
    for (target, path) in [(&kube, watch), (&kube, "/openapi/v2"), (&plain, half_read.as_str())] {
        let mut wire = target.begin("GET", path, &[]).await?;
        let head = wire.need_head().await?;
        ensure!(head.status() == 200, "{path}: {}", head.first);
        wire.exactly(100).await?;
        wires.push(wire);
    }
    let length = "content-length: 1000000";
    let json = "content-type: application/json";
    let half_sent = format!("/upload?id={upload}");
    let dry_run = "/api/v1/namespaces/default/configmaps?dryRun=All";
    for (target, path) in [(&kube, dry_run), (&plain, half_sent.as_str())] {
        let mut wire = target.begin("POST", path, &[length, json]).await?;
        wire.send(&vec![b' '; 100_000]).await?;
        wires.push(wire);
    }
    let [kube_client, plain_client] = clients;
    let mut watching = kube_client.get(kube.url(watch)).send().await?.error_for_status()?;
    ensure!(watching.chunk().await?.is_some(), "the watch ends");
    let unanswered = plain_client.get(plain.url(&format!("/hang?id={hang}"))).send();
    tokio::select! {
        answer = unanswered => bail!("what hangs is answered: {answer:?}"),
        arrived = stage.backend.started(&hang, ARRIVES) => arrived?,
    }
    stage.backend.started(&upload, ARRIVES).await
}

/// Watches and other long requests that the API server has under way for the lab's user and all others.
async fn longrunning(stage: &Stage) -> Result<f64> {
    let text = stage.lab.admin().stdout(&["get", "--raw", "/metrics"]).await?;
    let samples = text.lines().filter(|line| line.starts_with("apiserver_longrunning_requests{"));
    let configmaps =
        samples.filter(|line| line.contains("resource=\"configmaps\"") && line.contains("scope=\"namespace\""));
    Ok(configmaps.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// A look at each when what was open has ended: compared with `before`, or steady.
async fn settled(processes: &[&Process], before: Option<&[Look]>) -> Result<Vec<Look>> {
    let mut earlier: Option<Vec<Look>> = before.map(<[Look]>::to_vec);
    let mut limit = GONE;
    if before.is_none() {
        limit = Duration::from_secs(10);
    }
    let looks = std::sync::Mutex::new(&mut earlier);
    until("what was open to be closed", limit, || async {
        let mut now = Vec::new();
        for process in processes {
            now.push(Look::at(process).await?);
        }
        let mut known = looks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(then) = known.as_ref() else {
            **known = Some(now);
            anyhow::bail!("the first look");
        };
        let compared = compare(then, &now);
        if before.is_none() {
            **known = Some(now.clone());
        }
        compared.map(|()| now)
    })
    .await
}

fn compare(then: &[Look], now: &[Look]) -> Result<()> {
    for (then, now) in then.iter().zip(now) {
        for metric in ACTIVE {
            let (then_is, now_is) = (then.metric(metric), now.metric(metric));
            ensure!(now_is <= then_is + MORE_OPEN, "{}: {metric} {then_is} -> {now_is}", now.name);
        }
        #[expect(clippy::cast_precision_loss, reason = "descriptors are few")]
        let (then_fds, now_fds) = (then.fds as f64, now.fds as f64);
        ensure!(now_fds <= then_fds + MORE_OPEN, "{}: {then_fds} -> {now_fds} descriptors", now.name);
    }
    Ok(())
}
