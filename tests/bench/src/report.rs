//! Figures: collected over the repeats, then a table and JSON.

mod table;

use anyhow::{Context, Result};
use serde::Serialize;
use std::path::Path;

/// One figure: the median over the repeats.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// The bench, such as `proxy`.
    pub bench: &'static str,
    /// The load, such as `get-16`.
    pub row: String,
    /// A way to the server, or a process.
    pub subject: String,
    /// What was measured, such as `requests/s`.
    pub metric: &'static str,
    /// Its unit alone.
    pub unit: &'static str,
    /// The median.
    pub value: f64,
    /// The largest less the smallest, in the same unit.
    pub spread: f64,
}

/// All figures of a run.
#[derive(Debug)]
pub struct Report {
    bench: &'static str,
    /// Which one is under way.
    repeat: usize,
    series: Vec<Series>,
    failures: Vec<String>,
}

#[derive(Debug)]
struct Series {
    row: String,
    subject: String,
    metric: &'static str,
    /// Each with its repeat: one that failed has none.
    values: Vec<(usize, f64)>,
}

/// What a table shows of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) row: &'a str,
    pub(crate) title: &'a str,
    /// Lines, as far as they have figures.
    pub(crate) subjects: &'a [&'a str],
    /// Columns; the ratios are those of the first.
    pub(crate) metrics: &'a [&'a str],
    /// Subjects that the others are divided by.
    pub(crate) bases: &'a [&'a str],
}

impl Report {
    /// An empty one of a bench.
    #[must_use]
    pub fn new(bench: &'static str) -> Self {
        Self { bench, repeat: 0, series: Vec::new(), failures: Vec::new() }
    }

    /// Says whose figures come next.
    pub(crate) fn begin(&mut self, repeat: usize) {
        self.repeat = repeat;
    }

    /// Adds a figure of the repeat that is under way.
    pub(crate) fn add(&mut self, row: &str, subject: &str, metric: &'static str, value: f64) {
        let value = (self.repeat, value);
        match self.series.iter_mut().find(|series| series.is(row, subject, metric)) {
            Some(series) => series.values.push(value),
            None => self.series.push(Series {
                row: row.to_owned(),
                subject: subject.to_owned(),
                metric,
                values: vec![value],
            }),
        }
    }

    /// Notes what could not be measured.
    pub(crate) fn fail(&mut self, row: &str, subject: &str, error: &anyhow::Error) {
        self.failures.push(format!("{row} {subject}: {error:#}"));
    }

    /// What could not be measured, and why.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Every figure, in the order of the run.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.series.iter().map(|series| series.record(self.bench)).collect()
    }

    /// Writes every figure as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, file: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(&self.records())?;
        text.push('\n');
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Adds what a subject has more than another one, in each repeat that has figures of both.
    pub(crate) fn add_difference(&mut self, row: &str, [subject, base]: [&str; 2], of: &str, metric: &'static str) {
        let values = |subject| self.series(row, subject, of).map_or(&[][..], |series| &series.values);
        let bases = values(base);
        let of_repeat = |repeat| bases.iter().find(|(other, _)| *other == repeat).map(|(_, base)| base);
        let differences =
            values(subject).iter().filter_map(|(repeat, value)| Some((*repeat, value - of_repeat(*repeat)?)));
        for (repeat, difference) in differences.collect::<Vec<_>>() {
            self.begin(repeat);
            self.add(row, subject, metric, difference);
        }
    }

    fn series(&self, row: &str, subject: &str, metric: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.is(row, subject, metric))
    }
}

impl Series {
    fn is(&self, row: &str, subject: &str, metric: &str) -> bool {
        self.row == row && self.subject == subject && self.metric == metric
    }

    fn record(&self, bench: &'static str) -> Record {
        Record {
            bench,
            row: self.row.clone(),
            subject: self.subject.clone(),
            metric: self.metric,
            unit: unit(self.metric),
            value: self.median(),
            spread: self.spread(),
        }
    }

    fn figures(&self) -> impl Iterator<Item = f64> {
        self.values.iter().map(|(_, value)| *value)
    }

    /// Of an even number, the mean of the two in the middle.
    fn median(&self) -> f64 {
        let mut sorted: Vec<f64> = self.figures().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |at: usize| sorted.get(at).copied().unwrap_or_default();
        f64::midpoint(at(sorted.len().saturating_sub(1) / 2), at(sorted.len() / 2))
    }

    fn spread(&self) -> f64 {
        let largest = self.figures().fold(f64::MIN, f64::max);
        let smallest = self.figures().fold(f64::MAX, f64::min);
        largest - smallest
    }
}

/// The unit in a metric's name: `p50-ms` is in ms, `cpu-us/request` in us, `requests/s` in 1/s.
fn unit(metric: &'static str) -> &'static str {
    match metric.rsplit_once('-') {
        Some((_, unit)) => unit.strip_suffix("/request").unwrap_or(unit),
        None if metric.starts_with("MB") || metric == "KiB" || metric == "ms" => metric,
        None => "1/s",
    }
}

/// What the figures come from.
pub(crate) fn machine() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("not known").to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores; the load before the first row was {load}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_and_the_range_of_its_repeats() {
        let mut report = Report::new("proxy");
        for value in [3.0, 1.0, 2.5] {
            report.add("get-1", "direct", "p50-ms", value);
        }
        for value in [4.0, 8.0] {
            report.add("get-1", "direct", "requests/s", value);
        }
        let records = report.records();
        let figures: Vec<_> = records.iter().map(|it| (it.metric, it.unit, it.value, it.spread)).collect();
        assert_eq!(figures, [("p50-ms", "ms", 2.5, 2.0), ("requests/s", "1/s", 6.0, 4.0)]);
    }

    #[test]
    fn a_load_that_fails_leaves_the_differences_of_the_other_repeats() {
        let mut report = Report::new("proxy");
        for (repeat, subject, value) in [
            (0, "direct", 1.0),
            (0, "pipeops", 1.5),
            (1, "pipeops", 9.0),
            (2, "pipeops", 4.0),
            (2, "direct", 2.0),
            (3, "direct", 9.0),
        ] {
            report.begin(repeat);
            report.add("get-1", subject, "p50-ms", value);
        }
        report.add_difference("get-1", ["pipeops", "direct"], "p50-ms", "added-p50-ms");
        let added = report.series("get-1", "pipeops", "added-p50-ms").map(|series| series.values.clone());
        assert_eq!(added.unwrap(), [(0, 0.5), (2, 2.0)]);
    }

    #[test]
    fn a_metric_s_name_ends_with_its_unit() {
        let units = ["MB/s", "KiB", "ms", "cpu-us/request", "rss-MiB", "cpu-s/GB", "events/s", "stdin-MB/s"].map(unit);
        assert_eq!(units, ["MB/s", "KiB", "ms", "us", "MiB", "s/GB", "1/s", "MB/s"]);
    }
}
