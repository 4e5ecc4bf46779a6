//! What processes cost while a load runs.

use anyhow::Result;
use lab::Process;
use rustix::time::{ClockId, clock_gettime};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Memory counts as settled when it has changed by less than this part.
const SETTLED: f64 = 0.005;
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOKS_ALIKE: u32 = 4;

/// A process as it is called in the figures.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) process: Arc<Process>,
}

impl Named {
    pub(crate) fn new(process: Arc<Process>) -> Self {
        Self { name: process.name().to_owned(), process }
    }

    /// Resident memory.
    pub(crate) fn rss_mib(&self) -> Result<f64> {
        Ok(self.process.rss()? as f64 / f64::from(1 << 20))
    }
}

/// What has used memory and CPU time.
pub(crate) trait Costs {
    fn rss(&self) -> Result<u64>;
    fn cpu_time(&self) -> Result<Duration>;
}

impl Costs for Named {
    fn rss(&self) -> Result<u64> {
        self.process.rss()
    }

    fn cpu_time(&self) -> Result<Duration> {
        self.process.cpu_time()
    }
}

/// The memory of each in bytes, when it changes no more.
pub(crate) async fn settled(of: &[impl Costs]) -> Result<Vec<f64>> {
    let started = Instant::now();
    let look = || of.iter().map(|it| Ok(it.rss()? as f64)).collect::<Result<Vec<_>>>();
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

/// CPU time from a point on.
pub(crate) struct Meter<'a, T> {
    processes: &'a [T],
    started: Vec<Duration>,
    client: Duration,
}

/// CPU time that was used.
#[derive(Debug)]
pub(crate) struct Used {
    /// In the order of the processes.
    pub(crate) processes: Vec<Duration>,
    /// The thread that makes the load.
    pub(crate) client: Duration,
}

impl<'a, T: Costs> Meter<'a, T> {
    pub(crate) fn start(processes: &'a [T]) -> Result<Self> {
        Ok(Self { processes, started: times(processes)?, client: this_thread() })
    }

    pub(crate) fn stop(self) -> Result<Used> {
        let client = this_thread().saturating_sub(self.client);
        let ended = times(self.processes)?;
        let used = ended.iter().zip(&self.started).map(|(ended, started)| ended.saturating_sub(*started));
        Ok(Used { processes: used.collect(), client })
    }
}

fn times(processes: &[impl Costs]) -> Result<Vec<Duration>> {
    processes.iter().map(Costs::cpu_time).collect()
}

fn this_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}
