//! Requests that go on while things break, each judged by its whole answer.

use crate::{
    Protocol,
    client::Target,
    wire::{Sum, blocks},
};
use anyhow::{Result, bail, ensure};
use lab::until;
use reqwest::Client;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// A request that has neither ended nor failed by then hangs.
const HANGS: Duration = Duration::from_secs(25);
/// Between a failure and the next try of the same worker: without it the load would spin on a process that is gone.
const PAUSE: Duration = Duration::from_millis(20);

/// What a request is, and what its answer has to be.
#[derive(Clone, Debug)]
pub enum Job {
    /// GET; the body is always the same.
    Get { path: String, body: Vec<u8> },
    /// POST of JSON; the answer contains a text.
    Post { path: String, body: String, answer: &'static str },
    /// GET of [`blocks`].
    Download { path: String, size: u64 },
    /// POST of [`blocks`], answered with their [`Sum`].
    Upload { path: String, size: u64 },
}

#[derive(Debug, Default)]
struct Tally {
    complete: u64,
    /// Visible failures by what they looked like.
    failed: BTreeMap<String, u64>,
    /// What must not be.
    wrong: Vec<String>,
    /// When the last request that succeeded was begun, per worker.
    begun: BTreeMap<usize, Instant>,
}

#[derive(Debug)]
pub struct Load {
    workers: JoinSet<()>,
    tally: Arc<Mutex<Tally>>,
}

impl Load {
    /// One worker per job, which begins a request as soon as the one before has ended, but not more often than once in `every`.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn start(jobs: Vec<(Target, Protocol, Job)>, every: Duration) -> Result<Self> {
        let tally = Arc::<Mutex<Tally>>::default();
        let mut workers = JoinSet::new();
        for (index, (target, protocol, job)) in jobs.into_iter().enumerate() {
            let (client, tally) = (target.http(protocol)?, Arc::clone(&tally));
            workers.spawn(async move {
                loop {
                    let begun = Instant::now();
                    let outcome = tokio::time::timeout(HANGS, once(&client, &target, &job)).await;
                    let mut pause = false;
                    {
                        let mut tally = lock(&tally);
                        match outcome {
                            Ok(Ok(None)) => {
                                tally.complete += 1;
                                tally.begun.insert(index, begun);
                            }
                            Ok(Ok(Some(failure))) => {
                                *tally.failed.entry(failure).or_default() += 1;
                                pause = true;
                            }
                            Ok(Err(wrong)) => tally.wrong.push(format!("{protocol:?} {}: {wrong:#}", job.path())),
                            Err(_) => tally.wrong.push(format!("{protocol:?} {}: hangs for {HANGS:?}", job.path())),
                        }
                    }
                    let next = if pause { PAUSE } else { every.saturating_sub(begun.elapsed()) };
                    tokio::time::sleep(next).await;
                }
            });
        }
        Ok(Self { workers, tally })
    }

    /// Waits until every worker has had a good answer to a request that it began after `since`.
    ///
    /// # Errors
    /// When that takes longer than `limit`; with what was seen instead.
    pub async fn good_since(&self, since: Instant, limit: Duration) -> Result<()> {
        until("a good answer for every worker", limit, || async {
            let tally = lock(&self.tally);
            let good = tally.begun.values().filter(|begun| **begun >= since).count();
            ensure!(good == self.workers.len(), "{good} of {}: {:?}", self.workers.len(), tally.failed);
            Ok(())
        })
        .await
    }

    /// How many requests have failed visibly since the last report.
    #[must_use]
    pub fn failures(&self) -> u64 {
        lock(&self.tally).failed.values().sum()
    }

    /// Completed requests and visible failures since the last report.
    ///
    /// # Errors
    /// When an answer was wrong or did not come.
    pub fn report(&self) -> Result<(u64, BTreeMap<String, u64>)> {
        let tally = std::mem::take(&mut *lock(&self.tally));
        if !tally.wrong.is_empty() {
            bail!("{} wrong answers: {}", tally.wrong.len(), tally.wrong.join("; "));
        }
        Ok((tally.complete, tally.failed))
    }
}

impl Job {
    fn path(&self) -> &str {
        match self {
            Self::Get { path, .. }
            | Self::Post { path, .. }
            | Self::Download { path, .. }
            | Self::Upload { path, .. } => path,
        }
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// None: complete and right. Some: failed, and showed it. An error: neither.
async fn once(client: &Client, target: &Target, job: &Job) -> Result<Option<String>> {
    let url = target.url(job.path());
    let request = match job {
        Job::Get { .. } | Job::Download { .. } => client.get(url),
        Job::Post { body, .. } => client.post(url).header("content-type", "application/json").body(body.clone()),
        Job::Upload { size, .. } => {
            let pieces = futures::stream::iter(blocks(*size).map(Ok::<_, std::io::Error>));
            client.post(url).body(reqwest::Body::wrap_stream(pieces))
        }
    };
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Ok(Some(kind("no answer", &error))),
    };
    let status = response.status();
    let mut sum = Sum::default();
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) if matches!(job, Job::Download { .. }) && status.is_success() => sum.add(&piece),
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => break,
            Err(error) => return Ok(Some(kind("broken body", &error))),
        }
    }
    if !status.is_success() {
        ensure!(status.is_server_error() || status == 403 || status == 429, "{status}: {}", shown(&body));
        ensure!(
            body.starts_with(b"{") && body.windows(15).any(|w| w == b"\"kind\":\"Status\""),
            "{status}: {}",
            shown(&body)
        );
        return Ok(Some(status.to_string()));
    }
    match job {
        Job::Get { body: expected, .. } => {
            ensure!(body == *expected, "{} bytes instead of {}", body.len(), expected.len());
        }
        Job::Post { answer, .. } => {
            ensure!(String::from_utf8_lossy(&body).contains(answer), "not {answer:?}: {}", shown(&body));
        }
        Job::Download { size, .. } => {
            let (sum, expected) = (sum.text(), Sum::of_blocks(*size));
            ensure!(sum == expected, "{sum} instead of {expected}");
        }
        Job::Upload { size, .. } => {
            ensure!(body == Sum::of_blocks(*size).into_bytes(), "{} of {size} bytes sent", shown(&body));
        }
    }
    Ok(None)
}

fn kind(what: &str, error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    format!("{what}: {cause}")
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(300).collect()
}
