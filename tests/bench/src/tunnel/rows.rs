//! The rows.

use super::{
    Scale, datagrams, measure,
    subjects::{Backends, Subject},
};
use crate::{
    client::Connection,
    link::load::Load as Streams,
    load::{self, Sample},
    report::Report,
    usage::Meter,
};
use anyhow::{Context, Result, ensure};
use clap::{ValueEnum, builder::PossibleValue};
use std::time::Duration;

/// The round trip of the rows with `rtt60-`.
pub(super) const LONG: Duration = Duration::from_millis(60);
/// An answer of 1 KiB.
const SMALL: &str = "/?1024";
const SMALL_LENGTH: u64 = 1024;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    name: &'static str,
    rtt: Duration,
    load: Load,
}

/// What goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// To the backend, on so many connections.
    Up(usize),
    /// From the backend.
    Down(usize),
    /// Small GETs on so many connections that stay.
    Get(usize),
    /// So many at a time connect, GET and close.
    SetUp(usize),
    /// Small exchanges on one connection, and another one in bulk.
    Beside,
    /// Datagrams at a fixed rate.
    Udp,
    /// Nothing.
    Idle,
}

const fn row(name: &'static str, load: Load) -> Row {
    Row { name, rtt: Duration::ZERO, load }
}

const fn long(name: &'static str, load: Load) -> Row {
    Row { name, rtt: LONG, load }
}

const ROWS: [Row; 22] = [
    row("bulk-1-up", Load::Up(1)),
    row("bulk-1-down", Load::Down(1)),
    row("bulk-16-up", Load::Up(16)),
    row("bulk-16-down", Load::Down(16)),
    row("get-1", Load::Get(1)),
    row("get-16", Load::Get(16)),
    row("get-128", Load::Get(128)),
    row("setup-16", Load::SetUp(16)),
    row("small-beside-bulk", Load::Beside),
    row("udp", Load::Udp),
    row("idle", Load::Idle),
    long("rtt60-bulk-1-up", Load::Up(1)),
    long("rtt60-bulk-1-down", Load::Down(1)),
    long("rtt60-bulk-16-up", Load::Up(16)),
    long("rtt60-bulk-16-down", Load::Down(16)),
    long("rtt60-get-1", Load::Get(1)),
    long("rtt60-get-16", Load::Get(16)),
    long("rtt60-get-128", Load::Get(128)),
    long("rtt60-setup-16", Load::SetUp(16)),
    long("rtt60-small-beside-bulk", Load::Beside),
    long("rtt60-udp", Load::Udp),
    long("rtt60-idle", Load::Idle),
];

impl Row {
    /// In the order they run.
    pub(super) const ALL: [Self; 22] = ROWS;

    /// As in `--only` and in the records.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }

    pub(super) fn round_trip(self) -> Duration {
        self.rtt
    }

    pub(super) fn load(self) -> Load {
        self.load
    }

    pub(super) fn title(self) -> String {
        match self.load {
            Load::Up(streams) => format!("bytes to the backend, {streams} connections"),
            Load::Down(streams) => format!("bytes from the backend, {streams} connections"),
            Load::Get(connections) => format!("GET of 1 KiB, {connections} connections that stay"),
            Load::SetUp(workers) => format!("connect, GET of 1 KiB, close; {workers} at a time"),
            Load::Beside => "small exchanges on one connection, beside one in bulk from the backend".to_owned(),
            Load::Udp => format!(
                "datagrams of {} bytes and their echoes, {} offered per second",
                datagrams::LENGTH,
                datagrams::RATE
            ),
            Load::Idle => "memory before and after the rows above".to_owned(),
        }
    }

    pub(super) fn metrics(self) -> &'static [&'static str] {
        match self.load {
            Load::Up(_) | Load::Down(_) => &["MB/s", "cpu-s/GB"],
            Load::Get(_) | Load::SetUp(_) => &["requests/s", "p50-ms", "p99-ms", "cpu-us/request"],
            Load::Beside => &["p50-ms", "p99-ms", "MB/s", "cpu-s/GB"],
            Load::Udp => &["packets/s", "loss-%", "p50-ms", "p99-ms"],
            Load::Idle => &["rss-MiB", "rss-after-MiB"],
        }
    }

    /// Runs it once for one subject.
    pub(super) async fn run(
        self,
        subject: &Subject,
        backends: &Backends,
        scale: Scale,
        report: &mut Report,
    ) -> Result<()> {
        match self.load {
            // A stream's directions are named from the agent, whose side the backend is on.
            Load::Up(streams) => measure::streams(self, Streams::Down(streams), subject, backends, scale, report).await,
            Load::Down(streams) => measure::streams(self, Streams::Up(streams), subject, backends, scale, report).await,
            Load::Beside => measure::streams(self, Streams::Beside(1), subject, backends, scale, report).await,
            Load::Get(connections) => {
                let request = subject.http.get(SMALL);
                let mut connections = load::connect(&subject.http, connections).await?;
                load::closed(&mut connections, &request, scale.warm_up).await?;
                let meter = Meter::start(&subject.hops)?;
                let sample = load::closed(&mut connections, &request, scale.window).await?;
                self.requests(subject, meter, &sample, report)
            }
            Load::SetUp(workers) => {
                let request = subject.http.get(SMALL);
                let once = async || Connection::open(&subject.http).await?.fetch(&request).await;
                let all = || (0..workers).map(|_| &once).map(|once| async move || once().await);
                load::looped(all(), scale.warm_up).await?;
                let meter = Meter::start(&subject.hops)?;
                let sample = load::looped(all(), scale.window).await?;
                self.requests(subject, meter, &sample, report)
            }
            Load::Udp => {
                let seen = datagrams::exchange(subject.datagrams, scale.warm_up, scale.window).await?;
                let mut add = |metric, value| report.add(self.name, subject.name, metric, value);
                add("packets/s", seen.received as f64 / seen.time.as_secs_f64());
                add("loss-%", 100.0 * (1.0 - seen.received as f64 / seen.sent as f64));
                if let Some([p50, p99]) = seen.latencies.quantiles_ms([0.5, 0.99]) {
                    add("p50-ms", p50);
                    add("p99-ms", p99);
                }
                Ok(())
            }
            // Measured before and after all rows, not in turns.
            Load::Idle => Ok(()),
        }
    }

    fn requests(
        self,
        subject: &Subject,
        meter: Meter<'_, crate::usage::Named>,
        sample: &Sample,
        report: &mut Report,
    ) -> Result<()> {
        let whole = sample.bytes == sample.requests * SMALL_LENGTH;
        ensure!(whole, "{} bytes in {} answers", sample.bytes, sample.requests);
        let used: Duration = meter.stop()?.processes.iter().sum();
        let [p50, p99] = sample.latencies.quantiles_ms([0.5, 0.99]).context("no request was answered")?;
        let mut add = |metric, value| report.add(self.name, subject.name, metric, value);
        add("requests/s", sample.requests as f64 / sample.time.as_secs_f64());
        add("p50-ms", p50);
        add("p99-ms", p99);
        if !subject.hops.is_empty() {
            add("cpu-us/request", used.as_secs_f64() * 1e6 / sample.requests as f64);
        }
        Ok(())
    }
}

impl ValueEnum for Row {
    fn value_variants<'a>() -> &'a [Self] {
        &ROWS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name))
    }
}
