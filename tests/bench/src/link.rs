//! `bench link`: bytes and small exchanges over one link, straight and over a long way; and very many links.
//!
//! ```text
//!   control plane (a thread) ── TLS, WebSocket, yamux ──► way (a thread) ──► agent (a thread)
//!   the same, direct         ── a TCP connection for each stream ──► way ──► the same
//! ```
//!
//! Each end has a thread and a runtime of its own, as the services have, so that each end's CPU time is its own.
//! The many links are those of simulated agents at a real control plane ([`storm`]).

pub(crate) mod ends;
pub(crate) mod load;
mod rows;
mod storm;
pub(crate) mod way;

pub use self::rows::Row;

use self::rows::{Measured, OneLink, Subject};
use crate::{
    report::{Report, Shown},
    turns::Turns,
};
use anyhow::Result;
use std::time::Duration;

/// What a load may take beyond its window before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What to run.
pub type Options = crate::options::Options<Row, Scale>;

/// How much of everything. The loads are bounded by these and end by themselves.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Repeats, each with every subject in turn.
    pub repeats: usize,
    /// How long windows may grow before it counts.
    pub warm_up: Duration,
    /// How long it counts.
    pub window: Duration,
    /// Agents that come at once.
    pub agents: usize,
    /// Streams to one of them, idle and busy.
    pub streams: [usize; 2],
    /// How long they stay until the control plane is killed.
    pub stay: Duration,
    /// Interval of their heartbeats.
    pub heartbeat: Duration,
}

impl Scale {
    /// What figures are published from.
    #[must_use]
    pub fn full() -> Self {
        Self {
            repeats: 3,
            warm_up: Duration::from_secs(2),
            window: Duration::from_secs(4),
            agents: 2000,
            streams: [500, 100],
            stay: Duration::from_secs(60),
            heartbeat: Duration::from_secs(30),
        }
    }

    /// The same loads, for a shorter time.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            repeats: 2,
            warm_up: Duration::from_secs(1),
            window: Duration::from_secs(2),
            stay: Duration::from_secs(20),
            heartbeat: Duration::from_secs(10),
            ..Self::full()
        }
    }

    /// Hardly anything of each: for a test that the figures come at all.
    #[must_use]
    pub fn smoke() -> Self {
        Self {
            repeats: 1,
            warm_up: Duration::from_millis(200),
            window: Duration::from_millis(500),
            agents: 20,
            streams: [20, 4],
            stay: Duration::from_secs(2),
            heartbeat: Duration::from_millis(500),
        }
    }
}

/// Runs every row and prints the tables. The figures are in the report as soon as they are measured, whatever comes later.
///
/// # Errors
/// When the lab for the many agents does not start or stop. What cannot be measured is in the report's failures instead.
pub async fn run(options: Options, report: &mut Report) -> Result<()> {
    let scale = options.scale;
    println!("{}", preamble(scale));
    let turns = Turns { repeats: scale.repeats, limit: STUCK_AFTER, progress: &options.progress };
    let rows = options.rows(Row::all());
    for row in &rows {
        let Row::OneLink(row) = *row else { continue };
        let load = async |subject: &Subject, report: &mut Report| {
            let measured = row.measure(*subject, scale).await?;
            record(row, *subject, &measured, report);
            Ok(())
        };
        turns.run(row.name(), &[("direct", Subject::Direct), ("pipeops", Subject::PipeOps)], report, load).await;
        let shown = |subjects: &[&str], title: &str, metrics: &[&str], bases: &[&str]| {
            report.table(&Shown { row: row.name(), title, subjects, metrics, bases })
        };
        print!("{}", shown(&["direct", "pipeops"], &row.title(), row.metrics(), &["direct"]));
        print!("{}", shown(&["control-plane", "agent"], "by end", &["cpu-s/GB"], &[]));
    }
    if rows.iter().any(|row| !matches!(row, Row::OneLink(_))) {
        storm::run(&options, &rows, report).await?;
    }
    Ok(())
}

fn record(row: OneLink, subject: Subject, measured: &Measured, report: &mut Report) {
    let name = subject.name();
    let gigabytes = measured.bytes as f64 / 1e9;
    let seconds = measured.time.as_secs_f64();
    report.add(row.name(), name, "MB/s", gigabytes * 1000.0 / seconds);
    if let Some([p50, p99]) = measured.exchanges.quantiles_ms([0.5, 0.99]) {
        // What they take beyond the way.
        let way = row.round_trip().as_secs_f64() * 1000.0;
        report.add(row.name(), name, "added-p50-ms", p50 - way);
        report.add(row.name(), name, "added-p99-ms", p99 - way);
    }
    if gigabytes > 0.0 {
        let both = measured.control_plane + measured.agent;
        report.add(row.name(), name, "cpu-s/GB", both.as_secs_f64() / gigabytes);
        if subject == Subject::PipeOps {
            report.add(row.name(), "control-plane", "cpu-s/GB", measured.control_plane.as_secs_f64() / gigabytes);
            report.add(row.name(), "agent", "cpu-s/GB", measured.agent.as_secs_f64() / gigabytes);
        }
    }
}

fn preamble(scale: Scale) -> String {
    format!(
        "\n{} repeats, both subjects in turn. A figure is the median; ± is half the range.\n\
         direct   a TCP connection for each stream, without TLS\n\
         pipeops  one link with TLS\n\
         up is towards the control plane, down towards the agent; both ends and the way share this machine.\n\
         The agents of the last rows are in this process, and their control plane has the machine's rest.\n{}",
        scale.repeats,
        crate::report::machine()
    )
}
