//! What a load did, and what it cost whom, as figures.

use super::{rows::Row, subjects::Subject};
use crate::{
    load::Sample,
    report::Report,
    usage::{Meter, Named, Used},
};
use anyhow::{Context, Result};
use lab::Lab;
use std::time::Duration;

/// The servers behind every subject: kube-apiserver and etcd.
pub(super) struct Servers(Vec<Named>);

impl Servers {
    pub(super) fn of(lab: &Lab) -> Result<Self> {
        let servers = ["kube-apiserver", "etcd"].map(|name| lab.process(name).map(Named::new));
        Ok(Self(servers.into_iter().collect::<Result<_>>()?))
    }
}

/// A load that runs.
pub(super) struct Run<'a> {
    row: Row,
    subject: &'a Subject,
    hops: Meter<'a, Named>,
    servers: Meter<'a, Named>,
}

impl<'a> Run<'a> {
    pub(super) fn start(row: Row, subject: &'a Subject, servers: &'a Servers) -> Result<Self> {
        Ok(Self { row, subject, hops: Meter::start(&subject.hops)?, servers: Meter::start(&servers.0)? })
    }

    /// Adds the figures. What is not of interest in a row is in its records all the same.
    pub(super) fn stop(self, sample: &Sample, report: &mut Report) -> Result<()> {
        let (hops, servers) = (self.hops.stop()?, self.servers.stop()?);
        let (row, subject) = (self.row.name(), self.subject);
        let [p50, p99] = sample.latencies.quantiles_ms([0.5, 0.99]).context("no request was answered")?;
        let seconds = sample.time.as_secs_f64();
        let mut add = |metric, value| report.add(row, subject.name, metric, value);
        if self.row.is_bodies() {
            let per_gb = |time: Duration| time.as_secs_f64() / (sample.bytes as f64 / 1e9);
            add("MB/s", sample.bytes as f64 / 1e6 / seconds);
            add("client-cpu-s/GB", per_gb(hops.client));
            if !subject.hops.is_empty() {
                add("cpu-s/GB", per_gb(sum(&hops)));
            }
        } else {
            add(if self.row == Row::Watch { "events/s" } else { "requests/s" }, sample.requests as f64 / seconds);
            if matches!(self.row, Row::List1 | Row::List8 | Row::ListPods) {
                add("MB/s", sample.bytes as f64 / 1e6 / seconds);
            }
            add("p50-ms", p50);
            add("p99-ms", p99);
            add("api-cpu-us/request", per_request(sum(&servers), sample));
            add("client-cpu-us/request", per_request(hops.client, sample));
            if !subject.hops.is_empty() {
                add("cpu-us/request", per_request(sum(&hops), sample));
            }
        }
        for (hop, time) in subject.hops.iter().zip(&hops.processes) {
            report.add(row, &hop.name, "cpu-us/request", per_request(*time, sample));
            report.add(row, &hop.name, "rss-MiB", hop.rss_mib()?);
        }
        Ok(())
    }
}

/// What each subject adds to the direct latency, repeat by repeat.
pub(super) fn added(row: Row, subjects: &[Subject], report: &mut Report) {
    for (metric, added) in [("p50-ms", "added-p50-ms"), ("p99-ms", "added-p99-ms")] {
        for subject in subjects.iter().filter(|subject| !subject.hops.is_empty()) {
            report.add_difference(row.name(), [subject.name, "direct"], metric, added);
        }
    }
}

fn sum(used: &Used) -> Duration {
    used.processes.iter().sum()
}

fn per_request(time: Duration, sample: &Sample) -> f64 {
    time.as_secs_f64() * 1e6 / sample.requests as f64
}
