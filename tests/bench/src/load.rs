//! Loads: bounded in time and number, on connections that are open already.

mod latency;
mod pace;

pub(crate) use self::latency::Latencies;

use self::pace::Pace;
use crate::client::{Connection, Target};
use anyhow::{Context, Result};
use futures::{
    StreamExt, TryStreamExt,
    future::try_join_all,
    stream::{self, FuturesUnordered},
};
use std::time::{Duration, Instant};

/// Handshakes under way at once.
const CONNECTING: usize = 16;
/// Connections that a fixed rate may use. At 500/s they cover answers that take 128 ms.
const RATE_CONNECTIONS: usize = 64;
const UPLOAD_PART: usize = 64 * 1024;

/// What a load did.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    /// Of bodies, without heads and framing.
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
    pub(crate) latencies: Latencies,
}

/// Opens connections.
pub(crate) async fn connect(target: &Target, count: usize) -> Result<Vec<Connection>> {
    stream::iter(0..count).map(|_| Connection::open(target)).buffer_unordered(CONNECTING).try_collect().await
}

/// How many connections [`fixed_rate`] is to be given.
pub(crate) const fn rate_connections() -> usize {
    RATE_CONNECTIONS
}

/// The next request on each connection as soon as the last one is answered.
pub(crate) async fn closed(connections: &mut [Connection], request: &[u8], window: Duration) -> Result<Sample> {
    looped(connections.iter_mut().map(|connection| async move || connection.fetch(request).await), window).await
}

/// Pieces of work side by side, each begun anew as soon as it has ended, until the window is over, but once at least. They give the
/// number of their bytes.
pub(crate) async fn looped<W>(work: impl IntoIterator<Item = W>, window: Duration) -> Result<Sample>
where
    W: AsyncFnMut() -> Result<u64>,
{
    let started = Instant::now();
    let loops = work.into_iter().map(|mut work| async move {
        let mut sample = Sample::default();
        let mut now = Instant::now();
        while sample.requests == 0 || now.duration_since(started) < window {
            sample.bytes += work().await?;
            sample.requests += 1;
            let ended = Instant::now();
            sample.latencies.add(ended.duration_since(now));
            now = ended;
        }
        anyhow::Ok(sample)
    });
    let mut sum = Sample::default();
    for sample in try_join_all(loops).await? {
        sum.requests += sample.requests;
        sum.bytes += sample.bytes;
        sum.latencies.merge(sample.latencies);
    }
    sum.time = started.elapsed();
    Ok(sum)
}

/// Requests at fixed times, whether or not the ones before are answered. A latency counts from the time its request was due, so that a
/// stall shows in all that it delays.
pub(crate) async fn fixed_rate(
    connections: Vec<Connection>,
    request: &[u8],
    per_second: u32,
    window: Duration,
) -> Result<Sample> {
    let started = Instant::now();
    let mut pace = Pace::start(per_second, window)?;
    let mut free = connections;
    let mut busy = FuturesUnordered::new();
    let mut sample = Sample::default();
    let mut more = true;
    while more || !busy.is_empty() {
        tokio::select! {
            due = pace.next(), if more && !free.is_empty() => match due {
                Some(due) => if let Some(mut connection) = free.pop() {
                    busy.push(async move {
                        let bytes = connection.fetch(request).await?;
                        anyhow::Ok((connection, bytes, due.elapsed()))
                    });
                },
                None => more = false,
            },
            Some(done) = busy.next() => {
                let (connection, bytes, latency) = done?;
                free.push(connection);
                sample.requests += 1;
                sample.bytes += bytes;
                sample.latencies.add(latency);
            }
        }
    }
    sample.time = started.elapsed();
    Ok(sample)
}

/// Sends bodies of `length` bytes, one after the other.
pub(crate) async fn upload(connection: &mut Connection, head: &[u8], length: u64, window: Duration) -> Result<Sample> {
    let part = vec![b'x'; UPLOAD_PART];
    let started = Instant::now();
    let mut sample = Sample::default();
    while sample.requests == 0 || started.elapsed() < window {
        let sent = Instant::now();
        connection.send(head).await?;
        let mut left = length;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
            connection.send(part.get(..now).unwrap_or_default()).await.context("in the middle of a body")?;
            left -= now as u64;
        }
        connection.finish().await?;
        sample.requests += 1;
        sample.bytes += length;
        sample.latencies.add(sent.elapsed());
    }
    sample.time = started.elapsed();
    Ok(sample)
}
