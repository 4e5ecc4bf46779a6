//! `bench tunnel`: from a port through a tunnel to a server beside the agent, against the direct way and against other tunnels.
//!
//! ```text
//!   client (threads) ─► port of a server ══ TLS or Noise, maybe a way of 60 ms ══ its client ─► backends (threads)
//! ```
//!
//! The same three backends are behind all: bytes in bulk, small HTTP requests, and datagrams that come back.

mod agent;
mod datagrams;
mod measure;
mod rows;
mod subjects;

pub use self::rows::Row;

use self::{
    rows::Load,
    subjects::{Backends, Subject, Subjects},
};
use crate::{
    report::{Report, Shown},
    turns::Turns,
};
use anyhow::{Context, Result};
use lab::Lab;
use std::time::Duration;

/// What a load may take beyond its window before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// What to run.
pub type Options = crate::options::Options<Row, Scale>;

/// How much of everything. The loads are bounded by these and end by themselves.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Repeats, each with every subject in turn.
    pub repeats: usize,
    /// How long a load runs before it counts.
    pub warm_up: Duration,
    /// How long it counts.
    pub window: Duration,
    /// Also the peers that take long to build.
    pub every_peer: bool,
}

impl Scale {
    /// What figures are published from.
    #[must_use]
    pub fn full() -> Self {
        Self { repeats: 3, warm_up: Duration::from_millis(500), window: Duration::from_millis(1500), every_peer: true }
    }

    /// The same loads, once and for a shorter time.
    #[must_use]
    pub fn quick() -> Self {
        Self { repeats: 1, warm_up: Duration::from_millis(200), window: Duration::from_millis(400), ..Self::full() }
    }

    /// Hardly anything of each: for a test that the figures come at all.
    #[must_use]
    pub fn smoke() -> Self {
        Self { repeats: 1, warm_up: Duration::from_millis(150), window: Duration::from_millis(150), every_peer: false }
    }
}

/// Starts a lab and the peers, runs every row, prints the tables and stops everything. The figures are in the report as soon as they
/// are measured, whatever comes later.
///
/// # Errors
/// When something does not start or stop. What cannot be measured is in the report's failures instead.
pub async fn run(options: Options, report: &mut Report) -> Result<()> {
    let lab = Lab::start(lab::Options {
        bench: true,
        progress: options.progress.clone(),
        // What there is to measure, and not what is allowed.
        control_plane_env: [("PIPEOPS_LINKS_REQUESTS_PER_SECOND".to_owned(), "0".to_owned())].into(),
        ..lab::Options::default()
    })
    .await?;
    let result = in_lab(&lab, &options, report).await;
    let stopped = lab.stop().await.context("cannot stop the lab");
    result.and(stopped)
}

async fn in_lab(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    let scale = options.scale;
    println!("{}", preamble(scale));
    let backends = Backends::start().await?;
    let ports = agent::Ports::create(lab, &backends).await?;
    let rows = options.rows(Row::ALL);
    for rtt in [Duration::ZERO, rows::LONG] {
        let of: Vec<Row> = rows.iter().copied().filter(|row| row.round_trip() == rtt).collect();
        if of.is_empty() {
            continue;
        }
        let step = options.progress.step("subjects", &format!("with {} ms of round trip", rtt.as_millis()));
        let subjects = Subjects::start(lab, &backends, &ports, rtt, scale, &options.progress).await?;
        step.done("run");
        measure(&of, &subjects, &backends, options, report).await?;
        subjects.stop().await?;
    }
    Ok(())
}

async fn measure(
    rows: &[Row],
    subjects: &Subjects,
    backends: &Backends,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let scale = options.scale;
    let turns = Turns { repeats: scale.repeats, limit: STUCK_AFTER + scale.window, progress: &options.progress };
    let of: Vec<(&'static str, &Subject)> = subjects.all().iter().map(|subject| (subject.name, subject)).collect();
    let idle = rows.iter().find(|row| row.load() == Load::Idle);
    if let Some(row) = idle {
        // Before any load: what memory was once used for is not always given back.
        measure::memory(*row, subjects.all(), "rss-MiB", report)?;
    }
    for row in rows.iter().copied().filter(|row| row.load() != Load::Idle) {
        let load = async |subject: &&Subject, report: &mut Report| row.run(subject, backends, scale, report).await;
        turns.run(row.name(), &of, report, load).await;
        print(row, subjects, report);
    }
    if let Some(row) = idle {
        measure::memory(*row, subjects.all(), "rss-after-MiB", report)?;
        print(*row, subjects, report);
    }
    Ok(())
}

fn preamble(scale: Scale) -> String {
    format!(
        "\n{} repeats of {:?}, all subjects in turn. A figure is the median; ± is half the range.\n\
         direct   from the client to the backend\n\
         pipeops  a port of the control plane, TLS, gateway-link\n\
         chisel   TLS (and SSH in it) between server and client\n\
         frp      TLS between frps and frpc, its multiplexer on\n\
         rathole  Noise between server and client, nodelay\n\
         up is from the client to the backend. CPU and memory are those of both ends of a tunnel.\n\
         With rtt60 in front, 60 ms of round trip are between the two ends; direct has them on its whole way.\n{}",
        scale.repeats,
        scale.window,
        crate::report::machine()
    )
}

fn print(row: Row, subjects: &Subjects, report: &Report) {
    let names: Vec<&str> = subjects.all().iter().map(|subject| subject.name).collect();
    let hops: Vec<&str> = subjects.all().iter().flat_map(|it| &it.hops).map(|hop| hop.name.as_str()).collect();
    let shown = |title: &str, subjects: &[&str], metrics: &[&str], bases: &[&str]| {
        report.table(&Shown { row: row.name(), title, subjects, metrics, bases })
    };
    print!("{}", shown(&row.title(), &names, row.metrics(), &["direct", "chisel", "frp", "rathole"]));
    if row.load() == Load::Idle {
        print!("{}", shown("by process", &hops, row.metrics(), &[]));
    }
}
