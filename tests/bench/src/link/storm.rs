//! Many agents at one control plane: all come at once, stay, lose it (it is killed), and come again.
//!
//! The control plane is the lab's; its agents' end is in a thread of this process. Each has a cluster and a token of its own.

mod agent;
mod backoff;
mod fleet;
mod streams;

use self::{agent::Far, fleet::Fleet};
use super::{Options, Row, Scale};
use crate::{
    report::{Report, Shown},
    usage::{Named, settled},
};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use lab::{Lab, Progress, until};
use protocol::Secret;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Programs that make tokens at the same time.
const AT_ONCE: usize = 8;
/// Open files of each of the two processes, besides a connection for each agent.
const OTHER_FILES: u64 = 1000;
/// They are wanted in 30 s; that they do not come at all shows by then.
const COME_WITHIN: Duration = Duration::from_secs(180);
/// The last acknowledgements are here by then.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);

const CONTROL_PLANE: &str = "control-plane";
const GATEWAY_LINK: &str = "gateway-link";

/// Starts a lab, measures both rows, prints those that were asked for, and stops it.
pub(super) async fn run(options: &Options, rows: &[Row], report: &mut Report) -> Result<()> {
    // Before the lab: its processes get the limit from this one.
    allow_open_files(options.scale.agents)?;
    let lab =
        Lab::start(lab::Options { bench: true, progress: options.progress.clone(), ..lab::Options::default() }).await?;
    let title = format!("{} agents at once", options.scale.agents);
    let step = options.progress.step("storm-2000", &title);
    match measure(&lab, options.scale, &options.progress, report).await {
        Ok(()) => step.done("measured"),
        Err(error) => {
            step.failed("not measured");
            report.fail(Row::Storm.name(), CONTROL_PLANE, &error);
        }
    }
    let stopped = lab.stop().await.context("cannot stop the lab");
    for row in rows {
        let shown = |title: &str, metrics: &[&str]| {
            let subjects = &[CONTROL_PLANE, GATEWAY_LINK];
            report.table(&Shown { row: row.name(), title, subjects, metrics, bases: &[] })
        };
        match row {
            Row::Storm => print!("{}", shown(&title, &STORM)),
            Row::IdleAgent => print!("{}", shown("memory for each idle agent, and of the agent's process", &IDLE)),
            Row::IdleStream => print!("{}", shown("memory for each idle stream", &STREAM)),
            Row::BusyStream => print!("{}", shown("memory for each busy stream", &STREAM)),
            Row::OneLink(_) => {}
        }
    }
    stopped
}

const STORM: [&str; 6] =
    ["registered-s", "back-s", "registered-cpu-s", "back-cpu-s", "unacknowledged-heartbeats", "lost-links"];
const IDLE: [&str; 2] = ["KiB", "rss-MiB"];
const STREAM: [&str; 1] = ["KiB"];

async fn measure(lab: &Lab, scale: Scale, progress: &Progress, report: &mut Report) -> Result<()> {
    report.begin(0);
    let control_plane = lab.process(CONTROL_PLANE)?;
    let of_control_plane = [Named::new(Arc::clone(&control_plane))];
    let memory = async || anyhow::Ok(settled(&of_control_plane).await?.first().copied().unwrap_or_default());
    let without = memory().await?;
    let step = progress.step("tokens", "one for each agent");
    let tokens = tokens(lab, scale.agents).await?;
    step.done("made");

    let (begun, used) = (Instant::now(), control_plane.cpu_time()?);
    let fleet = Fleet::start(Far::new(lab.url()?, lab.ca_pem()?, scale.heartbeat)?, tokens).await?;
    all_come(&fleet).await.context("the first time")?;
    let storm = |report: &mut Report, metric, value| report.add(Row::Storm.name(), CONTROL_PLANE, metric, value);
    storm(report, "registered-s", begun.elapsed().as_secs_f64());
    storm(report, "registered-cpu-s", control_plane.cpu_time()?.saturating_sub(used).as_secs_f64());

    tokio::time::sleep(scale.stay).await;
    let with = memory().await?;
    let gateway_link = Named::new(lab.process(GATEWAY_LINK)?).rss_mib()?;
    let [idle, busy] = scale.streams;
    let port = streams::tunnel(lab, &cluster(0)).await?;
    streams::idle(port, idle, memory, report).await.context("idle streams")?;

    let begun = Instant::now();
    // Before the links end: those are not lost.
    fleet.begin_round();
    control_plane.kill().await?;
    control_plane.start().await?;
    all_come(&fleet).await.context("after the control plane was killed")?;
    storm(report, "back-s", begun.elapsed().as_secs_f64());
    storm(report, "back-cpu-s", control_plane.cpu_time()?.as_secs_f64());

    // In which each has to send one more.
    tokio::time::sleep(scale.heartbeat).await;
    let acknowledged = until("every heartbeat to be acknowledged", ACKNOWLEDGED_WITHIN, || async {
        let (unacknowledged, sent) = fleet.heartbeats();
        ensure!(unacknowledged == 0, "{unacknowledged} of {sent} are not");
        Ok(())
    });
    let _the_figure_says_so = acknowledged.await;
    storm(report, "unacknowledged-heartbeats", count(fleet.heartbeats().0)?);
    storm(report, "lost-links", count(fleet.lost())?);
    report.add(Row::IdleAgent.name(), CONTROL_PLANE, "KiB", (with - without) / 1024.0 / count(scale.agents)?);
    report.add(Row::IdleAgent.name(), GATEWAY_LINK, "rss-MiB", gateway_link);
    // In a process that has carried none before.
    let now = || control_plane.rss();
    streams::busy(port, busy, scale.window, memory, now, report).await.context("busy streams")
}

async fn all_come(fleet: &Fleet) -> Result<()> {
    until("every agent to be registered", COME_WITHIN, || async {
        let (there, all) = fleet.there();
        ensure!(there == all, "{there} of {all}; the last that failed: {}", fleet.last_failure());
        Ok(())
    })
    .await
}

/// `count` tokens, each of the cluster that goes with its agent.
async fn tokens(lab: &Lab, count: usize) -> Result<Vec<(String, Secret)>> {
    stream::iter(0..count)
        .map(async |number| {
            let cluster = cluster(number);
            let token = lab.create_token(&["--agent", "--cluster", &cluster]).await?;
            Ok((cluster, Secret::new(token)))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

fn cluster(number: usize) -> String {
    format!("storm-{number:04}")
}

fn count(number: usize) -> Result<f64> {
    Ok(f64::from(u32::try_from(number)?))
}

/// Here, and with that in the processes that are started from here, a connection for each of `agents`.
fn allow_open_files(agents: usize) -> Result<()> {
    let needed = u64::try_from(agents)? + OTHER_FILES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let allowed = maximum.map_or("any number".to_owned(), |maximum| maximum.to_string());
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }).with_context(|| {
        format!(
            "{agents} agents need {needed} open files in one process, and this user may have {allowed}: raise it (`ulimit -Hn \
             {needed}` as root, or nofile in /etc/security/limits.conf) and run this again"
        )
    })
}
