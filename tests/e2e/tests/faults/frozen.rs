//! A request given to an executor that does not move.

use anyhow::{Context, Result, ensure};
use e2e::{Protocol, gauges::Look, stage::Stage};
use lab::until;
use std::time::Duration;

/// gateway-link gives an executor 3 s to take a request.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// What the executor was given while it was frozen has ended by then.
const OVER_WITHIN: Duration = Duration::from_secs(10);

pub async fn what_a_frozen_executor_may_still_do_is_not_said_to_be_undone(stage: &Stage) -> Result<()> {
    let (plain, executor) = (stage.plain()?, &stage.side.executor);
    // The request is to be the first of its stream: a new link has one other at most, and the watch takes it.
    stage.side.gateway_link.restart().await?;
    stage.settled().await?;
    let mut watch = plain.begin("GET", "/watch?id=frozen-watch", &[]).await?;
    ensure!(watch.need_head().await?.status() == 200, "no watch");

    let request = plain.http(Protocol::Http1)?.post(plain.url("/upload?id=frozen-post")).body("once");
    executor.freeze()?;
    let answer = async {
        let response = request.timeout(ANSWERED_WITHIN).send().await?;
        anyhow::Ok((response.status().as_u16(), response.text().await?))
    };
    let answer = answer.await;
    executor.resume()?;
    let (status, said) = answer.context("no answer while the executor is frozen")?;

    stage.settled().await?;
    until("the executor to be done with what it was given", OVER_WITHIN, || async {
        let active = Look::at(executor).await?.metric("pipeops_agent_proxy_requests_active");
        ensure!(active == 0.0, "{active} requests are under way");
        Ok(())
    })
    .await?;
    let ran = stage.backend.exchange("frozen-post").is_some();
    let unknown = [502, 504].contains(&status) && said.contains("it is not known whether");
    ensure!(
        unknown || (status == 503 && !ran),
        "the backend {} the request, and the user was told {status}: {said}",
        if ran { "got" } else { "did not get" }
    );
    Ok(())
}
