//! The rows.

use super::{
    Scale, exec,
    ground::{ECHO, Ground, HOPS, LOG, NAMESPACE, POD, ZEROS},
    loads,
};
use crate::{
    client::Connection,
    load::Sample,
    report::Report,
    usage::{Meter, settled},
    watches,
};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use futures::future::try_join_all;
use lab::Forward;
use std::{cell::RefCell, time::Duration};

/// Forwarded connections at a time.
const FORWARDED: usize = 4;
/// Sessions that are opened at a time.
const OPENING: usize = 8;

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// Short commands, one after the other
    #[value(name = "exec-1")]
    Exec1,
    /// Short commands, 16 at a time
    #[value(name = "exec-16")]
    Exec16,
    /// A command with much output, and one with much input
    #[value(name = "exec-bytes")]
    ExecBytes,
    /// Bytes from a pod through `kubectl port-forward`, one connection
    #[value(name = "port-forward")]
    PortForward,
    /// Short connections through `kubectl port-forward`
    #[value(name = "port-forward-setup")]
    PortForwardSetup,
    /// A pod's log
    #[value(name = "logs")]
    Logs,
    /// Concurrent watches with a rate of events
    #[value(name = "watch-500")]
    Watch,
    /// `kubectl get pods -A`
    #[value(name = "get-pods")]
    GetPods,
    /// Memory of open sessions over all hops
    #[value(name = "session")]
    Session,
}

/// What a load counts.
#[derive(Clone, Copy)]
enum Counts {
    Sessions,
    Bytes,
    Time,
}

impl Row {
    /// In the order they run.
    pub(super) const ALL: [Self; 9] = [
        Self::Exec1,
        Self::Exec16,
        Self::ExecBytes,
        Self::PortForward,
        Self::PortForwardSetup,
        Self::Logs,
        Self::Watch,
        Self::GetPods,
        // Last: it restarts what it measures.
        Self::Session,
    ];

    /// As in `--only` and in the records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec1 => "exec-1",
            Self::Exec16 => "exec-16",
            Self::ExecBytes => "exec-bytes",
            Self::PortForward => "port-forward",
            Self::PortForwardSetup => "port-forward-setup",
            Self::Logs => "logs",
            Self::Watch => "watch-500",
            Self::GetPods => "get-pods",
            Self::Session => "session",
        }
    }

    pub(super) fn title(self, scale: Scale) -> String {
        let megabytes = |bytes: u64| bytes / 1_000_000;
        match self {
            Self::Exec1 => "exec of echo, one after the other".to_owned(),
            Self::Exec16 => "the same, 16 at a time".to_owned(),
            Self::ExecBytes => format!("exec with {0} MB of output; the same of input", megabytes(scale.exec)),
            Self::PortForward => format!("{} MB from a pod, 1 connection", megabytes(scale.forward)),
            Self::PortForwardSetup => format!("connections of a byte there and back, {FORWARDED} at a time"),
            Self::Logs => format!("a log of {} MB, 1 connection", megabytes(scale.log)),
            Self::Watch => {
                format!("{} watches, {} events per second to each", scale.watches, watches::EVENTS_PER_SECOND)
            }
            Self::GetPods => format!("kubectl get pods -A, {} pods", scale.pods),
            Self::Session => format!("{} open execs; KiB is memory of all hops per session", scale.sessions),
        }
    }

    pub(super) fn metrics(self) -> &'static [&'static str] {
        match self {
            Self::Exec1 | Self::Exec16 | Self::PortForwardSetup => {
                &["sessions/s", "p50-ms", "p99-ms", "cpu-us/request"]
            }
            Self::ExecBytes => &["MB/s", "stdin-MB/s", "cpu-s/GB"],
            Self::PortForward | Self::Logs => &["MB/s", "cpu-s/GB"],
            Self::Watch => &["ms", "p99-ms", "cpu-us/request"],
            Self::GetPods => &["ms", "cpu-us/request"],
            Self::Session => &["KiB"],
        }
    }

    /// Runs it once for one subject.
    pub(super) async fn run(self, ground: &Ground<'_>, agent: bool, scale: Scale, report: &mut Report) -> Result<()> {
        let target = ground.target(agent);
        let name = target.name;
        let execs = async |places| {
            let echo = async || {
                let printed = exec::finish(exec::open(target, &["echo", "hello"], false).await?).await?;
                ensure!(printed.text == b"hello\n", "echo printed {:?}", printed.text);
                Ok(printed.bytes)
            };
            echo().await?;
            loads::sessions(places, scale.window, echo).await
        };
        let forward = async |port| Forward::to(ground.kubectl(agent)?, NAMESPACE, POD, port).await;
        match self {
            Self::Exec1 => self.measure(ground, agent, Counts::Sessions, report, execs(1)).await,
            Self::Exec16 => self.measure(ground, agent, Counts::Sessions, report, execs(16)).await,
            Self::ExecBytes => {
                let output = async {
                    let count = format!("count={}", scale.exec / 65536);
                    loads::sessions(1, Duration::ZERO, async || {
                        let output = exec::open(target, &["dd", "if=/dev/zero", "bs=64k", &count], false).await?;
                        let bytes = exec::finish(output).await?.bytes;
                        ensure!(bytes == scale.exec / 65536 * 65536, "{bytes} bytes of output");
                        Ok(bytes)
                    })
                    .await
                };
                self.measure(ground, agent, Counts::Bytes, report, output).await?;
                let length = scale.exec / 65536 * 65536;
                let input = loads::sessions(1, Duration::ZERO, async || {
                    let mut count = exec::open(target, &["wc", "-c"], true).await?;
                    exec::feed(&mut count, length).await?;
                    let said = String::from_utf8(exec::finish(count).await?.text)?;
                    ensure!(said.trim() == length.to_string(), "of {length} bytes: {said}");
                    Ok(length)
                })
                .await?;
                report.add(self.name(), name, "stdin-MB/s", megabytes_per_second(&input));
                Ok(())
            }
            Self::PortForward => {
                let forward = forward(ZEROS).await?;
                let load = loads::sessions(1, Duration::ZERO, async || loads::take(&forward, scale.forward).await);
                self.measure(ground, agent, Counts::Bytes, report, load).await
            }
            Self::PortForwardSetup => {
                let forward = forward(ECHO).await?;
                loads::echo(&forward).await?;
                let load = loads::sessions(FORWARDED, scale.window, async || loads::echo(&forward).await);
                self.measure(ground, agent, Counts::Sessions, report, load).await
            }
            Self::Logs => {
                let request = target.get(LOG);
                let connection = RefCell::new(Some(Connection::open(target).await?));
                let load = loads::sessions(1, scale.window, async || {
                    let mut open = connection.take().context("one at a time")?;
                    let bytes = open.fetch(&request).await?;
                    ensure!(bytes == scale.log, "{bytes} bytes of the log");
                    connection.replace(Some(open));
                    Ok(bytes)
                });
                self.measure(ground, agent, Counts::Bytes, report, load).await
            }
            Self::Watch => {
                let mut watches = watches::open(target, &ground.watched, scale.watches).await?;
                let load = watches::deliver(&mut watches, &ground.watched, scale.window);
                self.measure(ground, agent, Counts::Time, report, load).await
            }
            Self::GetPods => {
                let kubectl = ground.kubectl(agent)?;
                let load = loads::sessions(1, scale.window, async || {
                    let printed = kubectl.stdout(&["get", "pods", "-A"]).await?;
                    ensure!(printed.lines().count() > scale.pods, "pods are missing");
                    Ok(printed.len() as u64)
                });
                self.measure(ground, agent, Counts::Time, report, load).await
            }
            Self::Session => self.memory(ground, scale, report).await,
        }
    }
}

impl Row {
    /// Adds the figures of a load, which runs now.
    async fn measure(
        self,
        ground: &Ground<'_>,
        agent: bool,
        counts: Counts,
        report: &mut Report,
        load: impl Future<Output = Result<Sample>>,
    ) -> Result<()> {
        let hops = ground.hops(agent).await?;
        let meter = Meter::start(&hops)?;
        let sample = load.await?;
        let used = meter.stop()?;
        let (row, subject) = (self.name(), ground.target(agent).name);
        let [p50, p99] = sample.latencies.quantiles_ms([0.5, 0.99]).context("nothing was done")?;
        let (metric, of) = match counts {
            Counts::Bytes => ("cpu-s/GB", sample.bytes as f64 / 1e9),
            Counts::Sessions | Counts::Time => ("cpu-us/request", sample.requests as f64 / 1e6),
        };
        match counts {
            Counts::Bytes => report.add(row, subject, "MB/s", megabytes_per_second(&sample)),
            Counts::Sessions => {
                report.add(row, subject, "sessions/s", sample.requests as f64 / sample.time.as_secs_f64());
                report.add(row, subject, "p50-ms", p50);
                report.add(row, subject, "p99-ms", p99);
            }
            Counts::Time => {
                report.add(row, subject, "ms", p50);
                report.add(row, subject, "p99-ms", p99);
            }
        }
        if agent {
            report.add(row, subject, metric, used.processes.iter().sum::<Duration>().as_secs_f64() / of);
        }
        for (hop, time) in HOPS.iter().zip(used.processes) {
            report.add(row, hop, metric, time.as_secs_f64() / of);
        }
        Ok(())
    }

    /// What open sessions hold.
    async fn memory(self, ground: &Ground<'_>, scale: Scale, report: &mut Report) -> Result<()> {
        ground.restart().await?;
        let target = ground.target(true);
        // Pools and the like are there from the first sessions on.
        let short = async |_| exec::finish(exec::open(target, &["true"], false).await?).await;
        try_join_all((0..OPENING).map(short)).await?;
        let hops = ground.hops(true).await?;
        let before = settled(&hops).await?;
        let mut sessions = Vec::new();
        while sessions.len() < scale.sessions {
            let more = OPENING.min(scale.sessions - sessions.len());
            let open = (0..more).map(async |_| {
                let mut session = exec::open(target, &["sh", "-c", "echo open; exec cat"], true).await?;
                session.begins().await?;
                anyhow::Ok(session)
            });
            sessions.extend(try_join_all(open).await?);
        }
        let grown = settled(&hops).await?.into_iter().zip(before).map(|(now, before)| now - before);
        let kib: Vec<f64> = grown.map(|bytes| bytes / 1024.0 / scale.sessions as f64).collect();
        for (hop, kib) in HOPS.iter().zip(&kib) {
            report.add(self.name(), hop, "KiB", *kib);
        }
        report.add(self.name(), target.name, "KiB", kib.iter().sum());
        for session in &mut sessions {
            exec::feed(session, 0).await?;
        }
        try_join_all(sessions.into_iter().map(exec::finish)).await?;
        Ok(())
    }
}

fn megabytes_per_second(sample: &Sample) -> f64 {
    sample.bytes as f64 / 1e6 / sample.time.as_secs_f64()
}
