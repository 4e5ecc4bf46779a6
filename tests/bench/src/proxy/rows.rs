//! The rows.

use super::{
    Scale, bodies,
    fixtures::Fixtures,
    measure::{self, Servers},
    subjects::Subject,
};
use crate::{load, report::Report, usage::settled, watches};
use anyhow::{Context, Result};
use clap::ValueEnum;

/// A fixed rate that every subject can do.
const RATE: u32 = 500;

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// A small GET, one connection
    #[value(name = "get-1")]
    Get1,
    /// A small GET, 16 connections
    #[value(name = "get-16")]
    Get16,
    /// A small GET, 128 connections
    #[value(name = "get-128")]
    Get128,
    /// A small GET at a fixed rate
    #[value(name = "rate-500")]
    Rate,
    /// A LIST of 2.4 MB, one connection
    #[value(name = "list-1")]
    List1,
    /// A LIST of 2.4 MB, 8 connections
    #[value(name = "list-8")]
    List8,
    /// A LIST of 5,000 pods
    #[value(name = "list-pods")]
    ListPods,
    /// A body to a plain HTTP backend
    #[value(name = "body-up")]
    BodyUp,
    /// A body from a plain HTTP backend
    #[value(name = "body-down")]
    BodyDown,
    /// Concurrent watches with a rate of events
    #[value(name = "watch-1000")]
    Watch,
    /// Memory and CPU of every process, before and after all of it
    #[value(name = "idle")]
    Idle,
}

/// What the tables show.
pub(super) struct Metrics {
    pub(super) process: &'static [&'static str],
    pub(super) idle: &'static [&'static str],
    get: &'static [&'static str],
    rate: &'static [&'static str],
    bulk: &'static [&'static str],
    body: &'static [&'static str],
    watch: &'static [&'static str],
}

pub(super) const METRICS: Metrics = Metrics {
    process: &["cpu-us/request", "rss-MiB", "KiB"],
    idle: &["rss-MiB", "rss-after-MiB", "cpu-ms/s"],
    get: &[
        "requests/s",
        "p50-ms",
        "p99-ms",
        "added-p50-ms",
        "added-p99-ms",
        "cpu-us/request",
        "api-cpu-us/request",
        "client-cpu-us/request",
    ],
    rate: &["p50-ms", "p99-ms", "added-p50-ms", "added-p99-ms", "requests/s", "cpu-us/request", "api-cpu-us/request"],
    bulk: &["MB/s", "requests/s", "p50-ms", "added-p50-ms", "cpu-us/request", "client-cpu-us/request"],
    body: &["MB/s", "cpu-s/GB", "client-cpu-s/GB"],
    watch: &["KiB", "events/s", "p50-ms", "p99-ms", "added-p50-ms", "cpu-us/request"],
};

impl Row {
    /// In the order they run.
    pub(super) const ALL: [Self; 11] = [
        // First: after them the executor is started anew, and its memory at the end would be that of a part of the run.
        Self::BodyUp,
        Self::BodyDown,
        Self::Get1,
        Self::Get16,
        Self::Get128,
        Self::Rate,
        Self::List1,
        Self::List8,
        Self::ListPods,
        Self::Idle,
        // Last: it restarts what it measures.
        Self::Watch,
    ];

    /// As in `--only` and in the records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get1 => "get-1",
            Self::Get16 => "get-16",
            Self::Get128 => "get-128",
            Self::Rate => "rate-500",
            Self::List1 => "list-1",
            Self::List8 => "list-8",
            Self::ListPods => "list-pods",
            Self::BodyUp => "body-up",
            Self::BodyDown => "body-down",
            Self::Watch => "watch-1000",
            Self::Idle => "idle",
        }
    }

    pub(super) fn title(self, scale: Scale) -> String {
        let body = scale.body / 1_000_000;
        match self {
            Self::Get1 => "GET of a small ConfigMap, 1 connection".to_owned(),
            Self::Get16 => "the same, 16 connections".to_owned(),
            Self::Get128 => "the same, 128 connections".to_owned(),
            Self::Rate => format!("the same, {RATE} requests per second"),
            Self::List1 => "LIST of ConfigMaps, 2.4 MB, 1 connection".to_owned(),
            Self::List8 => "the same, 8 connections".to_owned(),
            Self::ListPods => format!("LIST of {} pods, unpaged, 1 connection", scale.pods),
            Self::BodyUp => format!("PUT of {body} MB to a plain HTTP backend, 1 connection"),
            Self::BodyDown => format!("GET of {body} MB from a plain HTTP backend, 1 connection"),
            Self::Watch => format!(
                "{} watches, {} events per second to each; KiB is memory of all hops per idle watch; a request is an event",
                scale.watches,
                watches::EVENTS_PER_SECOND
            ),
            Self::Idle => "every process, before and after the rows above".to_owned(),
        }
    }

    pub(super) fn metrics(self) -> &'static [&'static str] {
        match self {
            Self::Get1 | Self::Get16 | Self::Get128 => METRICS.get,
            Self::Rate => METRICS.rate,
            Self::List1 | Self::List8 | Self::ListPods => METRICS.bulk,
            Self::BodyUp | Self::BodyDown => METRICS.body,
            Self::Watch => METRICS.watch,
            Self::Idle => METRICS.idle,
        }
    }

    pub(super) fn is_bodies(self) -> bool {
        matches!(self, Self::BodyUp | Self::BodyDown)
    }

    /// Runs it once for one subject.
    pub(super) async fn run(
        self,
        subject: &Subject,
        servers: &Servers,
        fixtures: &Fixtures,
        scale: Scale,
        report: &mut Report,
    ) -> Result<()> {
        let mut closed = async |path: &str, connections| {
            let request = subject.api.get(path);
            let mut connections = load::connect(&subject.api, connections).await?;
            load::closed(&mut connections, &request, scale.warm_up()).await?;
            let meter = measure::Run::start(self, subject, servers)?;
            let sample = load::closed(&mut connections, &request, scale.window).await?;
            meter.stop(&sample, report)
        };
        match self {
            Self::Get1 => closed(&fixtures.small, 1).await,
            Self::Get16 => closed(&fixtures.small, 16).await,
            Self::Get128 => closed(&fixtures.small, 128).await,
            Self::List1 => closed(&fixtures.list, 1).await,
            Self::List8 => closed(&fixtures.list, 8).await,
            Self::ListPods => closed(&fixtures.pods, 1).await,
            Self::Rate => {
                let request = subject.api.get(&fixtures.small);
                let mut connections = load::connect(&subject.api, load::rate_connections()).await?;
                load::closed(&mut connections, &request, scale.warm_up()).await?;
                let meter = measure::Run::start(self, subject, servers)?;
                let sample = load::fixed_rate(connections, &request, RATE, scale.window).await?;
                meter.stop(&sample, report)
            }
            Self::BodyUp => bodies::up(subject, servers, scale, report).await,
            Self::BodyDown => bodies::down(subject, servers, scale, report).await,
            Self::Watch => watch(subject, servers, fixtures, scale, report).await,
            // Measured before and after all rows, not in turns.
            Self::Idle => Ok(()),
        }
    }
}

async fn watch(
    subject: &Subject,
    servers: &Servers,
    fixtures: &Fixtures,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    subject.restart().await.context("cannot start it anew")?;
    let idle = settled(&subject.hops).await?;
    let mut watches = watches::open(&subject.api, &fixtures.watched, scale.watches).await?;
    if !subject.hops.is_empty() {
        let grown = settled(&subject.hops).await?.into_iter().zip(idle).map(|(now, before)| now - before);
        let kib: Vec<f64> = grown.map(|bytes| bytes / 1024.0 / scale.watches as f64).collect();
        for (hop, kib) in subject.hops.iter().zip(&kib) {
            report.add(Row::Watch.name(), &hop.name, "KiB", *kib);
        }
        report.add(Row::Watch.name(), subject.name, "KiB", kib.iter().sum());
    }
    let run = measure::Run::start(Row::Watch, subject, servers)?;
    let sample = watches::deliver(&mut watches, &fixtures.watched, scale.window).await?;
    run.stop(&sample, report)
}

impl Scale {
    fn warm_up(self) -> std::time::Duration {
        self.window / 8
    }
}
