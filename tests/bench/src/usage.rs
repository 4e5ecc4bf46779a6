//! What processes cost while a load runs.

use anyhow::Result;
use lab::Process;
use rustix::time::{ClockId, clock_gettime};
use std::{sync::Arc, time::Duration};

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

/// CPU time from a point on.
pub(crate) struct Meter<'a> {
    processes: &'a [Named],
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

impl<'a> Meter<'a> {
    pub(crate) fn start(processes: &'a [Named]) -> Result<Self> {
        Ok(Self { processes, started: times(processes)?, client: this_thread() })
    }

    pub(crate) fn stop(self) -> Result<Used> {
        let client = this_thread().saturating_sub(self.client);
        let ended = times(self.processes)?;
        let used = ended.iter().zip(&self.started).map(|(ended, started)| ended.saturating_sub(*started));
        Ok(Used { processes: used.collect(), client })
    }
}

fn times(processes: &[Named]) -> Result<Vec<Duration>> {
    processes.iter().map(|named| named.process.cpu_time()).collect()
}

fn this_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}
