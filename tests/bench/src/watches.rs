//! Many watches of one object that changes at a fixed rate.

use crate::{
    client::{Connection, Head, Target},
    load::Sample,
};
use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use serde::Deserialize;
use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

pub(crate) const EVENTS_PER_SECOND: u32 = 5;
const STEP: Duration = Duration::from_millis(1000 / EVENTS_PER_SECOND as u64);
/// Handshakes under way at once.
const OPENING: usize = 16;
/// Every event has arrived by then, or is lost.
const DELIVERED_WITHIN: Duration = Duration::from_secs(10);
/// Every event has the time of its writing, in nanoseconds of this bench, as a text of this many digits.
const DIGITS: usize = 16;
const MARK: &[u8] = b"\"text\":\"";

/// A ConfigMap of the name `watched` that changes.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// Its path, and that of its collection.
    pub(crate) object: String,
    pub(crate) collection: String,
    /// Straight to the API server.
    pub(crate) writer: Target,
}

/// A watch under way.
pub(crate) type Watch = (Connection, Head);

/// What has arrived at all watches.
struct Arrivals {
    origin: Instant,
    sample: RefCell<Sample>,
}

/// Changes the object at the rate for `window`, and waits until each change has reached each watch.
pub(crate) async fn deliver(watches: &mut [Watch], watched: &Watched, window: Duration) -> Result<Sample> {
    let count = watches.len();
    let arrivals = Arrivals { origin: Instant::now(), sample: RefCell::default() };
    let started = Instant::now();
    let readers = watches.iter_mut().map(|(connection, head)| arrivals.read(connection, *head));
    tokio::select! {
        ended = try_join_all(readers) => {
            ended?;
            bail!("every watch has ended");
        }
        written = arrivals.write(watched, count, window) => written?,
    }
    let mut sample = arrivals.sample.into_inner();
    // The last one has its whole step, as the others do.
    sample.time = started.elapsed().max(STEP * events(window));
    Ok(sample)
}

/// Opens watches that begin now.
pub(crate) async fn open(target: &Target, watched: &Watched, count: usize) -> Result<Vec<Watch>> {
    #[derive(Deserialize)]
    struct List {
        metadata: ListMeta,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ListMeta {
        resource_version: String,
    }
    let list = watched.writer.get(&format!("{}?limit=1", watched.collection));
    let text = Connection::open(&watched.writer).await?.fetch_body(&list).await?;
    let version = serde_json::from_slice::<List>(&text)?.metadata.resource_version;
    let request = target.get(&format!(
        "{}?watch=1&fieldSelector=metadata.name%3Dwatched&timeoutSeconds=3600&resourceVersion={version}",
        watched.collection
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

/// How many times the object changes.
fn events(window: Duration) -> u32 {
    u32::try_from(window.as_millis() / STEP.as_millis()).unwrap_or(u32::MAX).max(1)
}

impl Arrivals {
    /// Changes the object at the rate, then waits until each change has reached each watch.
    async fn write(&self, watched: &Watched, watches: usize, window: Duration) -> Result<()> {
        let mut writer = Connection::open(&watched.writer).await?;
        let started = Instant::now();
        let events = events(window);
        for event in 0..events {
            tokio::time::sleep((STEP * event).saturating_sub(started.elapsed())).await;
            let now = self.origin.elapsed().as_nanos();
            let patch = format!(r#"{{"data":{{"text":"{now:0DIGITS$}"}}}}"#);
            let request = watched.writer.with_body("PATCH", &watched.object, "application/merge-patch+json", &patch);
            writer.fetch(&request).await.context("cannot change what is watched")?;
        }
        let expected = u64::from(events) * watches as u64;
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
