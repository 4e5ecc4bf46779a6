//! Fixed points in time.

use anyhow::{Context, Result};
use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Points that nobody has taken yet; the thread waits when there are more.
const WAITING: usize = 4096;

/// Gives points in time as they come. A thread that sleeps is exact to some 50 µs, where the runtime's timers round to milliseconds.
pub(super) struct Pace {
    due: mpsc::Receiver<Instant>,
    thread: Option<JoinHandle<()>>,
}

impl Pace {
    pub(super) fn start(per_second: u32, window: Duration) -> Result<Self> {
        let (sender, due) = mpsc::channel(WAITING);
        let step = Duration::from_secs(1) / per_second;
        let thread = thread::Builder::new()
            .name("bench-pace".to_owned())
            .spawn(move || {
                let started = Instant::now();
                let mut at = Duration::ZERO;
                while at < window {
                    thread::sleep(at.saturating_sub(started.elapsed()));
                    if sender.blocking_send(started + at).is_err() {
                        return;
                    }
                    at += step;
                }
            })
            .context("cannot start the thread that keeps the pace")?;
        Ok(Self { due, thread: Some(thread) })
    }

    /// The next point, when it has come.
    pub(super) async fn next(&mut self) -> Option<Instant> {
        self.due.recv().await
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.due.close();
        if let Some(thread) = self.thread.take() {
            // It sleeps for one step at most.
            drop(thread.join());
        }
    }
}
