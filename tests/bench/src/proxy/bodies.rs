//! Bodies of 100 MB, to and from a plain HTTP backend.

use super::{
    Scale,
    measure::{Run, Servers},
    rows::Row,
    subjects::Subject,
};
use crate::{client::Connection, load, report::Report, usage::Named};
use anyhow::{Context, Result, ensure};
use lab::{Lab, Process};
use std::{net::SocketAddr, sync::Arc, time::Duration};

const EXECUTOR: &str = "proxy-executor";
const READY_WITHIN: Duration = Duration::from_secs(30);
const CONTENT: &str = "application/octet-stream";

/// An executor whose API server is the backend, while the lab's own is stopped: both would serve the same queue.
pub(super) struct BackendExecutor {
    executor: Arc<Process>,
    lab_executor: Arc<Process>,
}

impl BackendExecutor {
    pub(super) async fn start(lab: &Lab, backend: SocketAddr) -> Result<Self> {
        let lab_executor = lab.process(EXECUTOR)?;
        lab_executor.stop().await?;
        let mut spec = lab_executor.spec().clone();
        spec.name = format!("{EXECUTOR}-backend");
        spec.env.insert("PIPEOPS_KUBERNETES_API_URL".to_owned(), format!("http://{backend}"));
        let executor = Arc::new(lab.add_process(spec));
        executor.start().await?;
        executor.wait_ready(READY_WITHIN).await?;
        Ok(Self { executor, lab_executor })
    }

    /// Under the lab's executor's name: it is the same program.
    pub(super) fn named(&self) -> Named {
        Named { name: EXECUTOR.to_owned(), process: Arc::clone(&self.executor) }
    }

    /// Starts the lab's executor again and gives it.
    pub(super) async fn stop(self) -> Result<Named> {
        self.executor.stop().await?;
        self.lab_executor.start().await?;
        self.lab_executor.wait_ready(READY_WITHIN).await?;
        Ok(Named::new(self.lab_executor))
    }
}

pub(super) async fn up(subject: &Subject, servers: &Servers, scale: Scale, report: &mut Report) -> Result<()> {
    let target = &subject.backend;
    let mut connection = Connection::open(target).await?;
    let head = |length| target.request("PUT", "/", Some((CONTENT, length)));
    load::upload(&mut connection, &head(scale.body / 8), scale.body / 8, Duration::ZERO).await?;
    let run = Run::start(Row::BodyUp, subject, servers)?;
    let sample = load::upload(&mut connection, &head(scale.body), scale.body, scale.window).await?;
    run.stop(&sample, report)
}

pub(super) async fn down(subject: &Subject, servers: &Servers, scale: Scale, report: &mut Report) -> Result<()> {
    let target = &subject.backend;
    let mut connections = [Connection::open(target).await?];
    let request = |length| target.get(&format!("/?{length}"));
    load::closed(&mut connections, &request(scale.body / 8), Duration::from_nanos(1)).await?;
    let run = Run::start(Row::BodyDown, subject, servers)?;
    let sample = load::closed(&mut connections, &request(scale.body), scale.window).await.context("GET")?;
    ensure!(sample.bytes == sample.requests * scale.body, "{} bytes in {} bodies", sample.bytes, sample.requests);
    run.stop(&sample, report)
}
