//! Every process without a load.

use super::{Scale, rows::Row, subjects::Subjects};
use crate::{
    report::Report,
    usage::{Meter, Named},
};
use anyhow::Result;
use lab::Lab;
use std::{collections::BTreeSet, sync::Arc};

/// Memory and CPU time of processes that have just started.
pub(super) async fn before(lab: &Lab, subjects: &Subjects, scale: Scale, report: &mut Report) -> Result<()> {
    let all = processes(lab, subjects);
    for _ in 0..scale.repeats {
        let meter = Meter::start(&all)?;
        tokio::time::sleep(scale.window).await;
        let used = meter.stop()?;
        for (named, time) in all.iter().zip(used.processes) {
            let per_second = time.as_secs_f64() * 1e3 / scale.window.as_secs_f64();
            report.add(Row::Idle.name(), &named.name, "rss-MiB", named.rss_mib()?);
            report.add(Row::Idle.name(), &named.name, "cpu-ms/s", per_second);
        }
    }
    Ok(())
}

/// Memory after the loads.
pub(super) fn after(lab: &Lab, subjects: &Subjects, report: &mut Report) -> Result<()> {
    for named in processes(lab, subjects) {
        report.add(Row::Idle.name(), &named.name, "rss-after-MiB", named.rss_mib()?);
    }
    Ok(())
}

/// Those of the lab and those of the peers, each once.
fn processes(lab: &Lab, subjects: &Subjects) -> Vec<Named> {
    let mut all: Vec<Named> = lab.processes().iter().map(|process| Named::new(Arc::clone(process))).collect();
    all.extend(subjects.all().iter().flat_map(|subject| &subject.hops).cloned());
    let mut seen = BTreeSet::new();
    all.retain(|named| seen.insert(named.name.clone()));
    all
}
