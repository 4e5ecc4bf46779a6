//! Bounded, level-triggered waiting.

use anyhow::{Result, bail};
use std::{
    future::Future,
    time::{Duration, Instant},
};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Asks `probe` again and again until it gives `Ok`, for at most `limit`. The error names `what` and the last state seen, which is what
/// `probe` gave as `Err`.
pub async fn until<T, E, F, Fut>(what: &str, limit: Duration, mut probe: F) -> Result<T>
where
    E: std::fmt::Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut last = String::from("nothing: the first look did not end");
    while let Some(left) = limit.checked_sub(started.elapsed()) {
        match tokio::time::timeout(left, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(state)) => last = format!("{state:#}"),
            Err(_) => break,
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    bail!("{what}: not within {limit:?}; last seen: {last}")
}
