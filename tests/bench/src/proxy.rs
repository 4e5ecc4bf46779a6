//! `bench proxy`: the way of a request to the API server, against the direct one and against other tunnels.

mod bodies;
mod fixtures;
mod idle;
mod measure;
mod rows;
mod subjects;

pub use self::rows::Row;

use self::{
    fixtures::Fixtures,
    measure::Servers,
    rows::METRICS,
    subjects::{Subject, Subjects},
};
use crate::{
    backend::Backend,
    report::{Report, Shown},
    turns::Turns,
};
use anyhow::{Context, Result};
use lab::Lab;
use std::time::Duration;

/// What a load may take beyond its window before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// What to run.
pub type Options = crate::options::Options<Row, Scale>;

/// How much of everything. The loads are bounded by these and end by themselves.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Repeats, each with every subject in turn.
    pub repeats: usize,
    /// How long a load runs.
    pub window: Duration,
    /// Pods in `list-pods`.
    pub pods: usize,
    /// Bytes of a body in `body-up` and `body-down`.
    pub body: u64,
    /// Watches in `watch-1000`.
    pub watches: usize,
}

impl Scale {
    /// What figures are published from.
    #[must_use]
    pub fn full() -> Self {
        Self { repeats: 3, window: Duration::from_secs(4), pods: 5000, body: 100_000_000, watches: 1000 }
    }

    /// The same loads, for a shorter time.
    #[must_use]
    pub fn quick() -> Self {
        Self { repeats: 2, window: Duration::from_secs(1), ..Self::full() }
    }

    /// Hardly anything of each: for a test that the figures come at all.
    #[must_use]
    pub fn smoke() -> Self {
        Self { repeats: 1, window: Duration::from_millis(200), pods: 50, body: 4_000_000, watches: 20 }
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
    let rows = options.rows(Row::ALL);
    let scale = options.scale;
    let step = options.progress.step("peers", "konnectivity and chisel");
    let backend = Backend::start().context("cannot start the backend for bodies")?;
    let mut subjects = Subjects::start(lab, backend.address).await?;
    step.done("run");
    if rows.contains(&Row::Idle) {
        // Before any load: what memory was once used for is not always given back.
        idle::before(lab, &subjects, scale, report).await?;
    }
    let step = options.progress.step("objects", "what the requests ask for");
    let fixtures = Fixtures::create(lab, subjects.direct()?, scale, &rows).await?;
    step.done("made");

    println!("{}", preamble(scale));
    let turns = Turns { repeats: scale.repeats, limit: STUCK_AFTER + scale.window, progress: &options.progress };
    for row in rows {
        let bodies = row.is_bodies();
        if bodies {
            subjects.send_bodies_to_backend(lab).await.context("cannot point an executor at the backend")?;
        }
        match row {
            Row::Idle => idle::after(lab, &subjects, report)?,
            row => {
                let servers = Servers::of(lab)?;
                let of: Vec<_> = subjects.all().iter().map(|subject| (subject.name, subject)).collect();
                let load = async |subject: &&Subject, report: &mut Report| {
                    row.run(subject, &servers, &fixtures, scale, report).await
                };
                turns.run(row.name(), &of, report, load).await;
                measure::added(row, subjects.all(), report);
            }
        }
        if bodies {
            subjects.send_bodies_to_api_server().await.context("cannot point the executor back")?;
        }
        print(row, lab, &subjects, scale, report);
    }
    Ok(())
}

fn preamble(scale: Scale) -> String {
    format!(
        "\n{} repeats of {:?}, all subjects in turn. A figure is the median; ± is half the range.\n\
         direct        the client's TLS ends at the API server\n\
         pipeops       the client's TLS ends at the control plane; wss from there; TLS from the executor to the API server\n\
         konnectivity  CONNECT over a Unix socket, mTLS between server and agent; the client's TLS ends at the API server\n\
         chisel        TLS (and SSH in it) between server and client; the client's TLS ends at the API server\n\
         Bodies go to a plain HTTP backend: there the client's front leg has TLS with pipeops alone.\n\
         cpu-us/request counts the hops of a subject, without API server, etcd and client.\n\
         {}",
        scale.repeats,
        scale.window,
        crate::report::machine()
    )
}

fn print(row: Row, lab: &Lab, subjects: &Subjects, scale: Scale, report: &Report) {
    let names: Vec<&str> = subjects.all().iter().map(|subject| subject.name).collect();
    let title = row.title(scale);
    let shown = |subjects: &[&str], title: &str, metrics: &[&str], bases: &[&str]| {
        report.table(&Shown { row: row.name(), title, subjects, metrics, bases })
    };
    if row == Row::Idle {
        let mut processes: Vec<&str> = lab.processes().iter().map(|process| process.name()).collect();
        processes.extend(subjects.all().iter().flat_map(|it| &it.hops).map(|hop| hop.name.as_str()));
        let mut seen = std::collections::BTreeSet::new();
        processes.retain(|name| seen.insert(*name));
        print!("{}", shown(&processes, &title, METRICS.idle, &[]));
        return;
    }
    print!("{}", shown(&names, &title, row.metrics(), &["direct", "konnectivity"]));
    let hops: Vec<&str> = subjects.all().iter().flat_map(|it| &it.hops).map(|hop| hop.name.as_str()).collect();
    print!("{}", shown(&hops, "by process", METRICS.process, &[]));
}
