//! Bytes in bulk, and memory.

use super::{
    Scale,
    rows::Row,
    subjects::{Backends, Subject},
};
use crate::{
    link::{
        ends::{Open, Stream, Thread},
        load::{self, Load, Seen},
    },
    report::Report,
    usage::{Meter, Named},
};
use anyhow::{Context, Result};
use futures::future::BoxFuture;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};
use tokio::{net::TcpStream, sync::oneshot};

/// Runs `load` in a thread of its own and adds the figures of its window.
pub(super) async fn streams(
    row: Row,
    load: Load,
    subject: &Subject,
    backends: &Backends,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    let port = subject.bulk;
    let dial = move || async move {
        let open: Open = Box::new(move || {
            Box::pin(async move {
                let tcp = TcpStream::connect(port).await?;
                tcp.set_nodelay(true)?;
                Ok(Box::new(tcp) as Box<dyn Stream>)
            })
        });
        let nothing: BoxFuture<'static, ()> = Box::pin(std::future::pending());
        Ok((open, nothing))
    };
    let seen = Arc::new(Seen::default());
    let seer = Arc::clone(&seen);
    let (failed, failure) = oneshot::channel();
    let work = async move || {
        let Err(error) = load::drive(load, dial, &seer).await else { return };
        // Nobody waits for it after the window.
        let _ended = failed.send(error);
    };
    let client = Thread::start("client", work).await?;
    let moved = || match load {
        Load::Down(_) => backends.taken(),
        Load::Up(_) | Load::Beside(_) => seen.bytes.load(Relaxed),
    };
    let window = async {
        tokio::time::sleep(scale.warm_up).await;
        drop(seen.take_exchanges());
        let (meter, begun, before) = (Meter::start(&subject.hops)?, Instant::now(), moved());
        tokio::time::sleep(scale.window).await;
        let (bytes, time, exchanges) = (moved() - before, begun.elapsed(), seen.take_exchanges());
        anyhow::Ok((bytes, time, exchanges, meter.stop()?))
    };
    let (bytes, time, exchanges, used) = tokio::select! {
        measured = window => measured?,
        Ok(error) = failure => return Err(error.context("the client's end")),
    };
    drop(client);
    anyhow::ensure!(bytes > 0, "no bytes in {time:?}");
    let gigabytes = bytes as f64 / 1e9;
    let mut add = |metric, value| report.add(row.name(), subject.name, metric, value);
    add("MB/s", gigabytes * 1000.0 / time.as_secs_f64());
    if matches!(load, Load::Beside(_)) {
        let [p50, p99] = exchanges.quantiles_ms([0.5, 0.99]).context("no small exchange ended")?;
        add("p50-ms", p50);
        add("p99-ms", p99);
    }
    if !subject.hops.is_empty() {
        let cpu: f64 = used.processes.iter().map(std::time::Duration::as_secs_f64).sum();
        add("cpu-s/GB", cpu / gigabytes);
    }
    Ok(())
}

/// Adds the memory of every process as `metric`, and that of both ends together.
pub(super) fn memory(row: Row, subjects: &[Subject], metric: &'static str, report: &mut Report) -> Result<()> {
    report.begin(0);
    for subject in subjects.iter().filter(|subject| !subject.hops.is_empty()) {
        let mebibytes = subject.hops.iter().map(Named::rss_mib).collect::<Result<Vec<_>>>()?;
        report.add(row.name(), subject.name, metric, mebibytes.iter().sum());
        for (hop, mebibytes) in subject.hops.iter().zip(mebibytes) {
            report.add(row.name(), &hop.name, metric, mebibytes);
        }
    }
    Ok(())
}
