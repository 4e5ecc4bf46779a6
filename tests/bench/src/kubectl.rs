//! `bench kubectl`: what kubectl does with pods, straight and through the agent, which is pods of the same node.

mod exec;
mod ground;
mod loads;
mod rows;

pub use self::rows::Row;

use self::ground::Ground;
use crate::{
    report::{Report, Shown},
    turns::Turns,
};
use anyhow::{Context, Result};
use lab::Lab;
use std::time::Duration;

/// What a load may take beyond its window before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(180);

/// What to run.
pub type Options = crate::options::Options<Row, Scale>;

/// How much of everything. The loads are bounded by these and end by themselves.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Repeats, each with every subject in turn.
    pub repeats: usize,
    /// How long a load of many small things runs.
    pub window: Duration,
    /// Bytes each way in `exec-bytes`.
    pub exec: u64,
    /// Bytes in `port-forward`.
    pub forward: u64,
    /// Bytes of the log in `logs`; a kubelet starts a new one at 10 MiB.
    pub log: u64,
    /// Watches in `watch-500`.
    pub watches: usize,
    /// Pods in `get-pods`.
    pub pods: usize,
    /// Sessions in `session`.
    pub sessions: usize,
}

impl Scale {
    /// What figures are published from.
    #[must_use]
    pub fn full() -> Self {
        Self {
            repeats: 3,
            window: Duration::from_secs(4),
            exec: 100_000_000,
            forward: 400_000_000,
            log: 8_000_000,
            watches: 500,
            pods: 5000,
            sessions: 100,
        }
    }

    /// The same loads, for a shorter time.
    #[must_use]
    pub fn quick() -> Self {
        Self { repeats: 2, window: Duration::from_secs(2), exec: 50_000_000, forward: 100_000_000, ..Self::full() }
    }

    /// Hardly anything of each: for a test that the figures come at all.
    #[must_use]
    pub fn smoke() -> Self {
        Self {
            repeats: 1,
            window: Duration::from_millis(200),
            exec: 1_000_000,
            forward: 1_000_000,
            log: 100_000,
            watches: 10,
            pods: 20,
            sessions: 4,
        }
    }
}

/// Starts a lab with a node, runs every row, prints the tables and stops everything. The figures are in the report as soon as they
/// are measured, whatever comes later.
///
/// # Errors
/// When something does not start or stop. What cannot be measured is in the report's failures instead.
pub async fn run(options: Options, report: &mut Report) -> Result<()> {
    let progress = options.progress.clone();
    let lab = Lab::start(lab::Options { bench: true, node: true, progress, ..lab::Options::default() }).await?;
    let result = in_lab(&lab, &options, report).await;
    let stopped = lab.stop().await.context("cannot stop the lab");
    result.and(stopped)
}

async fn in_lab(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    let rows = options.rows(Row::ALL);
    let scale = options.scale;
    let step = options.progress.step("pods", "what the sessions go to");
    let ground = Ground::prepare(lab, scale, &rows).await?;
    step.done("run");

    println!("{}", preamble(scale));
    let turns = Turns { repeats: scale.repeats, limit: STUCK_AFTER, progress: &options.progress };
    let subjects = [false, true].map(|agent| (ground.target(agent).name, agent));
    for row in rows {
        let load = async |agent: &bool, report: &mut Report| row.run(&ground, *agent, scale, report).await;
        // The direct way has no hops whose memory could be of interest.
        let subjects = if row == Row::Session { subjects.get(1..).unwrap_or_default() } else { &subjects };
        turns.run(row.name(), subjects, report, load).await;
        let title = row.title(scale);
        let shown = |subjects: &[&str], title: &str, metrics: &[&str], bases: &[&str]| {
            report.table(&Shown { row: row.name(), title, subjects, metrics, bases })
        };
        print!("{}", shown(&["direct", "pipeops"], &title, row.metrics(), &["direct"]));
        print!("{}", shown(&ground::HOPS, "by process", &["cpu-us/request", "cpu-s/GB", "KiB"], &[]));
    }
    Ok(())
}

fn preamble(scale: Scale) -> String {
    format!(
        "\n{} repeats, both subjects in turn. A figure is the median; ± is half the range.\n\
         direct   to the API server\n\
         pipeops  to the control plane, then the agent's pods on the API server's node\n\
         exec, session, logs and watches are this program's own; port-forward and get-pods are kubectl's.\n\
         cpu counts the hops of a subject, without API server, kubelet, containerd, the pod and the client.\n{}",
        scale.repeats,
        crate::report::machine()
    )
}
