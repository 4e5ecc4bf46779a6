use std::{
    collections::HashMap,
    fs, io,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::{
    Counter, Gauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tokio::runtime::Handle;

/// `/proc` counts CPU time in these on every architecture Linux runs on: USER_HZ is part of the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// Metrics of this process under the names every Prometheus client uses, read from `/proc/self` at each scrape.
#[derive(Debug)]
pub(crate) struct ProcessCollector {
    resident: Gauge,
    cpu: Counter,
    fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start: Gauge,
    tasks: Gauge,
    build: Gauge,
    /// The CPU time already in `cpu`, in ticks: a counter can only be added to.
    ticks: AtomicU64,
}

#[derive(Debug, Default, PartialEq)]
struct Reading {
    resident_bytes: f64,
    ticks: u64,
    threads: f64,
}

impl ProcessCollector {
    pub fn new(name: &'static str, version: &'static str) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| Gauge::new(name, help);
        let labels =
            HashMap::from([("service".to_owned(), name.to_owned()), ("version".to_owned(), version.to_owned())]);
        let build =
            Opts::new("pipeops_build_info", "Always 1; which service this is, in which version").const_labels(labels);
        let collector = Self {
            resident: gauge("process_resident_memory_bytes", "Memory of the process that is in RAM")?,
            cpu: Counter::new("process_cpu_seconds_total", "CPU time used, in user and kernel mode")?,
            fds: gauge("process_open_fds", "Open file descriptors")?,
            max_fds: gauge("process_max_fds", "How many file descriptors may be open")?,
            threads: gauge("process_threads", "Threads of the process")?,
            start: gauge("process_start_time_seconds", "When the process started, in seconds since 1970")?,
            tasks: gauge("tokio_alive_tasks", "Asynchronous tasks that have not finished")?,
            build: Gauge::with_opts(build)?,
            ticks: AtomicU64::new(0),
        };
        collector.build.set(1.0);
        collector.start.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()));
        if let Some(max) = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(max_fds) {
            collector.max_fds.set(max);
        }
        Ok(collector)
    }

    fn all(&self) -> [&dyn Collector; 8] {
        [&self.resident, &self.cpu, &self.fds, &self.max_fds, &self.threads, &self.start, &self.tasks, &self.build]
    }

    fn update(&self) -> io::Result<()> {
        let reading = parse(&fs::read_to_string("/proc/self/status")?, &fs::read_to_string("/proc/self/stat")?);
        self.resident.set(reading.resident_bytes);
        self.threads.set(reading.threads);
        let before = self.ticks.fetch_max(reading.ticks, Ordering::Relaxed);
        self.cpu.inc_by(count(reading.ticks.saturating_sub(before)) / TICKS_PER_SECOND);
        // The listing itself holds one descriptor.
        self.fds.set(count(fs::read_dir("/proc/self/fd")?.count().saturating_sub(1)));
        Ok(())
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Err(error) = self.update() {
            tracing::debug!(%error, "cannot read process metrics");
        }
        if let Ok(runtime) = Handle::try_current() {
            self.tasks.set(count(runtime.metrics().num_alive_tasks()));
        }
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

/// Counts of things are far below 2^32; one that is not is shown as that.
fn count(number: impl TryInto<u32>) -> f64 {
    f64::from(number.try_into().unwrap_or(u32::MAX))
}

/// From `/proc/self/status` and `/proc/self/stat`; what is missing is 0.
fn parse(status: &str, stat: &str) -> Reading {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    // The name in parentheses may hold anything; user and system time are the 12th and 13th field after it.
    let ticks = stat.rsplit_once(')').map_or(0, |(_, rest)| {
        rest.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum()
    });
    Reading {
        resident_bytes: field("VmRSS").unwrap_or_default() * 1024.0,
        ticks,
        threads: field("Threads").unwrap_or_default(),
    }
}

/// The soft limit from `/proc/self/limits`.
fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_survive_a_process_name_with_spaces_and_parentheses() {
        let status = "Name:\ta) 1 (b\nVmRSS:\t    2048 kB\nThreads:\t3\n";
        let stat = "42 (a) 1 (b) S 1 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 3 0 1 1 1";
        assert_eq!(parse(status, stat), Reading { resident_bytes: 2_097_152.0, ticks: 200, threads: 3.0 });
        assert_eq!(parse("", ""), Reading::default());
    }

    #[test]
    fn the_descriptor_limit_is_the_soft_one() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(max_fds(limits), Some(1024.0));
    }
}
