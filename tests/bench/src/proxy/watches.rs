//! Many watches of one object that changes at a fixed rate.

use super::{
    Scale,
    fixtures::Fixtures,
    measure::{Run, Servers},
    rows::Row,
    subjects::Subject,
};
use crate::{
    client::{Connection, Head, Target},
    load::Sample,
    report::Report,
    usage::Named,
};
use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use serde::Deserialize;
use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

pub(super) const EVENTS_PER_SECOND: u32 = 5;
const STEP: Duration = Duration::from_millis(1000 / EVENTS_PER_SECOND as u64);
/// Handshakes under way at once.
const OPENING: usize = 16;
/// Every event has arrived by then, or is lost.
const DELIVERED_WITHIN: Duration = Duration::from_secs(10);
/// Memory counts as settled when it has changed by less than this part.
const SETTLED: f64 = 0.005;
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOKS_ALIKE: u32 = 4;
/// Every event has the time of its writing, in nanoseconds of this bench, as a text of this many digits.
const DIGITS: usize = 16;
const MARK: &[u8] = b"\"text\":\"";

/// What has arrived at all watches.
struct Arrivals {
    origin: Instant,
    sample: RefCell<Sample>,
}

pub(super) async fn run(
    subject: &Subject,
    servers: &Servers,
    fixtures: &Fixtures,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    subject.restart().await.context("cannot start it anew")?;
    let mut writer = Connection::open(&fixtures.writer).await?;
    let idle = settled(&subject.hops).await?;
    let mut watches = open(&subject.api, &mut writer, fixtures, scale.watches).await?;
    if !subject.hops.is_empty() {
        let grown = settled(&subject.hops).await?.into_iter().zip(idle).map(|(now, before)| now - before);
        let kib: Vec<f64> = grown.map(|mib| mib * 1024.0 / scale.watches as f64).collect();
        for (hop, kib) in subject.hops.iter().zip(&kib) {
            report.add(Row::Watch.name(), &hop.name, "KiB", *kib);
        }
        report.add(Row::Watch.name(), subject.name, "KiB", kib.iter().sum());
    }

    let arrivals = Arrivals { origin: Instant::now(), sample: RefCell::default() };
    let run = Run::start(Row::Watch, subject, servers)?;
    let started = Instant::now();
    let readers = watches.iter_mut().map(|(connection, head)| arrivals.read(connection, *head));
    tokio::select! {
        ended = try_join_all(readers) => {
            ended?;
            bail!("every watch has ended");
        }
        written = arrivals.write(&mut writer, fixtures, scale) => written?,
    }
    let mut sample = arrivals.sample.into_inner();
    // The last one has its whole step, as the others do.
    sample.time = started.elapsed().max(STEP * events(scale));
    run.stop(&sample, report)
}

/// Opens watches that begin now.
async fn open(
    target: &Target,
    writer: &mut Connection,
    fixtures: &Fixtures,
    count: usize,
) -> Result<Vec<(Connection, Head)>> {
    #[derive(Deserialize)]
    struct List {
        metadata: ListMeta,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ListMeta {
        resource_version: String,
    }
    let text = writer.fetch_body(&fixtures.writer.get(&format!("{}?limit=1", fixtures.watched_in))).await?;
    let version = serde_json::from_slice::<List>(&text)?.metadata.resource_version;
    let request = target.get(&format!(
        "{}?watch=1&fieldSelector=metadata.name%3Dwatched&timeoutSeconds=3600&resourceVersion={version}",
        fixtures.watched_in
    ));
    let request = &request;
    let open = (0..count).map(|_| async move {
        let mut connection = Connection::open(target).await?.small();
        connection.send(request).await?;
        let head = connection.head().await?;
        ensure!(head.status == 200, "a watch is answered {}", head.status);
        anyhow::Ok((connection, head))
    });
    stream::iter(open).buffer_unordered(OPENING).try_collect().await
}

/// The memory of each process in MiB, when it changes no more.
async fn settled(processes: &[Named]) -> Result<Vec<f64>> {
    let started = Instant::now();
    let look = || processes.iter().map(Named::rss_mib).collect::<Result<Vec<_>>>();
    let mut last = look()?;
    let mut alike = 0;
    while alike < LOOKS_ALIKE && started.elapsed() < SETTLED_WITHIN {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = look()?;
        let same = now.iter().zip(&last).all(|(now, last)| (now - last).abs() <= last * SETTLED);
        alike = if same { alike + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

/// How many times the object changes.
fn events(scale: Scale) -> u32 {
    u32::try_from(scale.window.as_millis() / STEP.as_millis()).unwrap_or(u32::MAX).max(1)
}

impl Arrivals {
    /// Changes the object at the rate, then waits until each change has reached each watch.
    async fn write(&self, writer: &mut Connection, fixtures: &Fixtures, scale: Scale) -> Result<()> {
        let started = Instant::now();
        let events = events(scale);
        for event in 0..events {
            tokio::time::sleep((STEP * event).saturating_sub(started.elapsed())).await;
            let now = self.origin.elapsed().as_nanos();
            let patch = format!(r#"{{"data":{{"text":"{now:0DIGITS$}"}}}}"#);
            let target = &fixtures.writer;
            let request = target.with_body("PATCH", &fixtures.watched, "application/merge-patch+json", &patch);
            writer.fetch(&request).await.context("cannot change what is watched")?;
        }
        let expected = u64::from(events) * scale.watches as u64;
        lab::until("every event at every watch", DELIVERED_WITHIN, || {
            let arrived = self.sample.borrow().requests;
            let all = if arrived == expected { Ok(()) } else { Err(format!("{arrived} of {expected}")) };
            std::future::ready(all)
        })
        .await
    }

    async fn read(&self, connection: &mut Connection, head: Head) -> Result<()> {
        let mut line = Vec::new();
        connection
            .body(head, |part| {
                for piece in part.split_inclusive(|byte| *byte == b'\n') {
                    line.extend_from_slice(piece);
                    if line.ends_with(b"\n") {
                        self.event(&line);
                        line.clear();
                    }
                }
            })
            .await?;
        bail!("a watch has ended early")
    }

    fn event(&self, line: &[u8]) {
        let now = self.origin.elapsed();
        let mut sample = self.sample.borrow_mut();
        sample.requests += 1;
        sample.bytes += line.len() as u64;
        if let Some(written) = written(line) {
            sample.latencies.add(now.saturating_sub(written));
        }
    }
}

/// The time in an event.
fn written(line: &[u8]) -> Option<Duration> {
    let at = line.windows(MARK.len()).position(|part| part == MARK)? + MARK.len();
    let digits = str::from_utf8(line.get(at..at + DIGITS)?).ok()?;
    digits.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_time_of_its_writing() {
        let line = br#"{"type":"MODIFIED","object":{"kind":"ConfigMap","data":{"text":"0000000001000001"}}}"#;
        assert_eq!(written(line), Some(Duration::from_nanos(1_000_001)));
        assert_eq!(written(br#"{"type":"BOOKMARK"}"#), None);
    }
}
