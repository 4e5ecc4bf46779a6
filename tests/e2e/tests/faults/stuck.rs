//! Clients that stop reading.

use anyhow::{Context, Result, ensure};
use e2e::{
    backend::Exchange,
    client::{Target, Tls},
    gauges::Look,
    stage::Stage,
    wire::Framing,
};
use lab::until;
use std::time::{Duration, Instant};

const DOWNLOAD: u64 = 200_000_000;
const PAIRS: usize = 12;
const WINDOW: Duration = Duration::from_millis(800);
const CONNECTIONS: usize = 2;
/// Of the others' rate while somebody is stuck.
const KEPT: f64 = 0.9;
/// Resident memory of each of our processes with one stuck download, one stuck watch and one stuck session: what it is when idle, and
/// the windows of three streams.
const CAP: u64 = 32 << 20;
const STUCK_WITHIN: Duration = Duration::from_secs(10);

pub async fn whoever_does_not_read_slows_nobody_and_fills_nothing(stage: &Stage) -> Result<()> {
    let (kube, plain) = (stage.kube()?, stage.plain()?);
    let (mut free, mut stuck) = (Vec::new(), Vec::new());
    let mut looks = Vec::new();
    rate(&kube, &plain).await?;
    // The events disturb the API server for a while, so they come before every measurement.
    events(stage).await?;
    free.push(rate(&kube, &plain).await?);
    for round in 0..PAIRS {
        let held = Stuck::open(stage, round).await.with_context(|| format!("round {round}"))?;
        stuck.push(rate(&kube, &plain).await?);
        if round + 1 == PAIRS {
            let ours = stage.ours()?;
            for process in ours.iter().map(|process| &**process).chain(stage.side.processes()) {
                looks.push(Look::at(process).await?);
            }
        }
        held.still(stage, round)?;
        drop(held);
        stage.backend.abandoned(&download_id(round), STUCK_WITHIN).await?;
        events(stage).await?;
        free.push(rate(&kube, &plain).await?);
    }
    // Each beside its neighbours before and after, so that a machine that becomes faster or slower changes nothing.
    let around = free.iter().zip(free.iter().skip(1)).map(|(before, after)| f64::midpoint(*before, *after));
    let ratio = median(around.zip(&stuck).map(|(free, stuck)| stuck / free).collect());
    println!("rate with somebody stuck: {ratio:.3} of {:.0}/s", median(free));
    for look in &looks {
        println!("{}: {} KiB", look.name, look.rss / 1024);
        ensure!(look.rss <= CAP, "{} has {} bytes, more than its cap of {CAP}", look.name, look.rss);
    }
    ensure!(ratio >= KEPT, "others have {ratio:.3} of their rate");
    Ok(())
}

/// One download of 200 MB, one session and one watch of large events, all unread.
struct Stuck {
    _download: Tls,
    _session: Tls,
    _watch: Tls,
    sent: u64,
}

impl Stuck {
    async fn open(stage: &Stage, round: usize) -> Result<Self> {
        let (kube, plain) = (stage.kube()?, stage.plain()?);
        let id = download_id(round);
        let mut download = plain.begin("GET", &format!("/download?id={id}&size={DOWNLOAD}"), &[]).await?;
        download.need_head().await?;
        let mut session =
            plain.begin("POST", "/upgrade?id=stuck-session", &["connection: Upgrade", "upgrade: SPDY/3.1"]).await?;
        ensure!(session.need_head().await?.status() == 101, "no session");
        let path = "/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name%3Dstuck";
        let mut watch = kube.begin("GET", path, &[]).await?;
        ensure!(watch.need_head().await?.status() == 200, "no watch");
        events(stage).await?;
        // The echo comes back until everything on the way is full, and then the sending stops as well.
        let piece = vec![b'x'; 256 * 1024];
        while let Ok(sent) = tokio::time::timeout(Duration::from_millis(200), session.send(&piece)).await {
            sent?;
        }
        let mut last = None;
        let sent = until("the download to stand still", STUCK_WITHIN, || {
            let (now, before) = (sent(stage, &id), last.replace(sent(stage, &id)));
            std::future::ready(match before {
                Some(before) if before == now && now > Some(0) => Ok(now.unwrap_or_default()),
                _ => Err(format!("{now:?}")),
            })
        })
        .await?;
        ensure!(sent < DOWNLOAD / 2, "{sent} bytes went out to a client that does not read");
        Ok(Self { _download: download, _session: session, _watch: watch, sent })
    }

    /// It was stuck all the time.
    fn still(&self, stage: &Stage, round: usize) -> Result<()> {
        let now = sent(stage, &download_id(round));
        ensure!(now == Some(self.sent), "the download went on from {} to {now:?}", self.sent);
        Ok(())
    }
}

fn download_id(round: usize) -> String {
    format!("stuck-download-{round}")
}

fn sent(stage: &Stage, id: &str) -> Option<u64> {
    match stage.backend.exchange(id)? {
        Exchange::Open { sent } => Some(sent),
        Exchange::Complete | Exchange::Abandoned => None,
    }
}

/// Ten events of half a megabyte for the watch, made without the agent.
async fn events(stage: &Stage) -> Result<()> {
    for index in 0..10_u32 {
        let value = format!("{index}").repeat(500_000);
        let map = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"stuck"}},"data":{{"v":"{value}"}}}}"#
        );
        stage.lab.admin().stdout_with_input(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &map).await?;
    }
    Ok(())
}

/// Small requests per second, to both clusters together.
async fn rate(kube: &Target, plain: &Target) -> Result<f64> {
    let mut workers = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for (target, path) in [(kube, "/version"), (plain, "/small")] {
        for _ in 0..CONNECTIONS {
            let (target, head) = (target.clone(), target.head("GET", path, &[]));
            workers.spawn(async move {
                let mut wire = target.connect().await?;
                let mut done = 0_u32;
                let begun = Instant::now();
                while begun.elapsed() < WINDOW {
                    wire.send(&head).await?;
                    let head = wire.need_head().await?;
                    ensure!(head.status() == 200, "{}", head.first);
                    wire.body(head.framing(Framing::Length(0))).await?;
                    done += 1;
                }
                Ok(done)
            });
        }
    }
    let mut all = 0;
    while let Some(done) = workers.join_next().await {
        all += done??;
    }
    Ok(f64::from(all) / begun.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
