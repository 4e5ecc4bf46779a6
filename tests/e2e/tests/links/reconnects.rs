//! How agents come back, and what that leaves behind. Both are looked at with further agents' processes, beside the lab's own.

use crate::ground::{another, by_way, control_plane, get};
use anyhow::{Context, Result, ensure};
use e2e::{Protocol, client::Target, gauges::Look, way::Way};
use lab::{Lab, Process, until};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const READY_WITHIN: Duration = Duration::from_secs(40);

/// The stated waits, in seconds; each may be a quarter more or less.
const WAITS: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 15.0];
/// An attempt asks state-keeper before it dials, on a machine that does much else.
const ATTEMPT: f64 = 0.5;
/// All of them at their longest.
const OVER_WITHIN: Duration = Duration::from_secs(45);

const WARM_UP: usize = 50;
const LINKS: usize = 500;
const LINK_WITHIN: Duration = Duration::from_secs(10);
const GONE_WITHIN: Duration = Duration::from_secs(15);
/// What may be open or waiting beyond what was before: a pooled connection, the last link's leavings.
const MORE_FILES: usize = 8;
/// tokio ends threads for blocking work after 10 s without any.
const MORE_THREADS: usize = 4;
/// Allocators keep some of what was freed. One lost buffer of 16 KiB for each link would be 8 MiB.
const MORE_MEMORY: u64 = 6 << 20;
const MORE_TASKS: f64 = 4.0;

pub async fn agents_come_back_as_stated_and_500_links_leave_nothing_behind(lab: Arc<Lab>) -> Result<()> {
    // The one waits, the other works.
    let pattern = async { pattern(&lab).await.context("the waits between attempts") };
    let leavings = async { leavings(&lab).await.context("500 links") };
    tokio::try_join!(pattern, leavings).map(|_| ())
}

async fn pattern(lab: &Lab) -> Result<()> {
    let way = Way::to(control_plane(lab)?).await?;
    let agent = another(lab, "gateway-link", "refused", &[by_way(&way)])?;
    agent.start().await?;
    agent.wait_ready(READY_WITHIN).await?;
    way.refuse();
    let lost = tokio::time::Instant::now();
    way.cut();
    let arrivals = until("five attempts", OVER_WITHIN, || async {
        let arrivals = way.arrivals();
        ensure!(arrivals.len() >= WAITS.len(), "{} attempts", arrivals.len());
        Ok(arrivals)
    })
    .await?;
    let begins = std::iter::once(lost).chain(arrivals.iter().copied());
    let waits: Vec<f64> = begins.zip(&arrivals).map(|(begin, end)| end.duration_since(begin).as_secs_f64()).collect();
    println!("waits between attempts: {waits:.2?}");
    for (wait, stated) in waits.iter().zip(WAITS) {
        let range = stated * 0.75..=stated * 1.25 + ATTEMPT;
        ensure!(range.contains(wait), "a wait of {wait:.2} s where {stated} s are stated, of {waits:.2?}");
    }
    let Err(error) = agent.ready().await else { anyhow::bail!("an agent without a link is ready") };
    ensure!(format!("{error:#}").contains("link"), "{error:#}");
    way.open();
    agent.wait_ready(READY_WITHIN).await?;
    agent.stop().await.map(|_| ())
}

async fn leavings(lab: &Lab) -> Result<()> {
    let way = Way::to(control_plane(lab)?).await?;
    let soon = ["PIPEOPS_PIPEOPS_RECONNECT_INITIAL", "PIPEOPS_PIPEOPS_RECONNECT_MAX"].map(|it| (it, "5ms".to_owned()));
    let agent = another(lab, "gateway-link", "restless", &[&[by_way(&way)], soon.as_slice()].concat())?;
    agent.start().await?;
    agent.wait_ready(READY_WITHIN).await?;
    let lab_s = ["control-plane", "state-keeper"].map(|name| lab.process(name));
    let [control_plane, keeper] = lab_s;
    let (control_plane, keeper) = (control_plane?, keeper?);
    let all: [&Process; 3] = [&control_plane, &agent, &keeper];

    let begun = Instant::now();
    cut_links(&way, &agent, WARM_UP).await?;
    let before = held(&all).await?;
    cut_links(&way, &agent, LINKS).await?;
    let took = begun.elapsed();
    let now = until("what the links held to be given back", GONE_WITHIN, || async {
        let now = held(&all).await?;
        for (before, now) in before.iter().zip(&now) {
            now.is_no_more_than(before)?;
        }
        anyhow::Ok(now)
    })
    .await?;
    println!("{} links in {took:?}", WARM_UP + LINKS);
    for (before, now) in before.iter().zip(&now) {
        println!("{before:?}, then {now:?}");
    }
    agent.wait_ready(READY_WITHIN).await?;
    let target = Target::new(lab, lab.cluster())?;
    // The lab's own link is not the only one that they take.
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let client = target.http(protocol)?;
        for _ in 0..20 {
            get(lab, &client).await.context("a request after all")?;
        }
    }
    agent.stop().await.map(|_| ())
}

/// Ends each link as soon as it is up.
async fn cut_links(way: &Way, agent: &Process, links: usize) -> Result<()> {
    let count = async || anyhow::Ok(Look::at(agent).await?.metric("pipeops_agent_websocket_reconnections_total"));
    let mut last = count().await?;
    for number in 0..links {
        way.cut();
        last = until(&format!("link {number}"), LINK_WITHIN, || async {
            let now = count().await?;
            ensure!(now > last, "{now} links were made anew");
            Ok(now)
        })
        .await?;
    }
    Ok(())
}

/// What a process has for as long as it needs it.
#[derive(Debug)]
struct Held {
    name: String,
    files: usize,
    threads: usize,
    kib: u64,
    tasks: f64,
}

async fn held(processes: &[&Process]) -> Result<Vec<Held>> {
    let mut all = Vec::new();
    for process in processes {
        let Look { name, rss, fds: files, .. } = Look::at(process).await?;
        let tasks = Look::at(process).await?.metric("tokio_alive_tasks");
        all.push(Held { name, files, threads: process.threads()?, kib: rss / 1024, tasks });
    }
    Ok(all)
}

impl Held {
    fn is_no_more_than(&self, before: &Self) -> Result<()> {
        let fits = self.files <= before.files + MORE_FILES
            && self.threads <= before.threads + MORE_THREADS
            && self.kib <= before.kib + MORE_MEMORY / 1024
            && self.tasks <= before.tasks + MORE_TASKS;
        ensure!(fits, "{}: {before:?}, then {self:?}", self.name);
        Ok(())
    }
}
