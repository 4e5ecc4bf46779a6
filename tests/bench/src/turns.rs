//! Loads in turn.

use crate::report::Report;
use anyhow::{Context, Result};
use lab::Progress;
use std::time::Duration;

/// How often, and for how long at most, each subject has its turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turns<'a> {
    pub(crate) repeats: usize,
    /// A load that takes longer is stuck.
    pub(crate) limit: Duration,
    pub(crate) progress: &'a Progress,
}

impl Turns<'_> {
    /// Runs a row's load for every subject (with its name) in turn. Another one begins each time, so that none always follows the same.
    /// What fails is noted, and the others go on.
    pub(crate) async fn run<S>(
        self,
        row: &'static str,
        subjects: &[(&'static str, S)],
        report: &mut Report,
        load: impl AsyncFn(&S, &mut Report) -> Result<()>,
    ) {
        let step = self.progress.step(row, "runs");
        let mut failed = 0;
        for repeat in 0..self.repeats {
            report.begin(repeat);
            let (later, first) = subjects.split_at(repeat % subjects.len());
            for (name, subject) in first.iter().chain(later) {
                step.at(&format!("{name}, {} of {}", repeat + 1, self.repeats));
                let done = tokio::time::timeout(self.limit, load(subject, report)).await;
                if let Err(error) = done.context("it is stuck").and_then(|done| done) {
                    failed += 1;
                    report.fail(row, name, &error);
                }
            }
        }
        match failed {
            0 => step.done("measured"),
            _ => step.failed(&format!("{failed} loads failed")),
        }
    }
}
