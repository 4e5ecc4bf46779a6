//! The way to the control plane carries nothing, and nothing says so.

use crate::ground::{Ground, breaks_off, link_ends, watch};
use anyhow::{Context, Result, ensure};
use lab::{Lab, until};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// `dead_after` of both ends, and what a loaded machine and our looks take.
const NOTICED_WITHIN: Duration = Duration::from_secs(20 + 2);
/// Before that, nothing may be given up: a way can be slow.
const NOT_BEFORE: Duration = Duration::from_secs(9);
/// The first wait of a gateway-link, a quarter more, and what a connection and a registration take.
const BACK_WITHIN: Duration = Duration::from_millis(1250 + 3000);

pub async fn both_ends_notice_a_frozen_link_within_20_s_and_a_new_one_is_up_when_it_can_be(
    lab: Arc<Lab>,
) -> Result<()> {
    let ground = Ground::begin(&lab).await?;
    let outcome = frozen(&ground).await;
    ground.end().await?;
    outcome
}

async fn frozen(ground: &Ground) -> Result<()> {
    let lab = &ground.lab;
    let watch = watch(lab).await?;
    let before = link_ends(&ground.control_plane().await?, "dead");
    ground.link.freeze();
    let begun = Instant::now();
    let agent = until("the agent to notice", NOTICED_WITHIN, || async {
        let Err(error) = ground.gateway_link.ready().await else { anyhow::bail!("it is ready") };
        let error = format!("{error:#}");
        ensure!(error.contains("no sign of life"), "{error}");
        Ok(begun.elapsed())
    });
    let control_plane = until("the control plane to notice", NOTICED_WITHIN, || async {
        let look = ground.control_plane().await?;
        let (dead, links) = (link_ends(&look, "dead"), look.metric("pipeops_control_plane_links"));
        ensure!(dead > before && links < 1.0, "{dead} links were found dead, {before} before; {links} are up");
        Ok(begun.elapsed())
    });
    let user = async { breaks_off(watch, NOTICED_WITHIN).await.context("the user's watch") };
    let (agent, control_plane, user) = tokio::try_join!(agent, control_plane, user)?;
    println!(
        "noticed by the agent after {agent:?}, by the control plane after {control_plane:?}, by the user after {user:?}"
    );
    ensure!(agent.min(control_plane) > NOT_BEFORE, "given up after {agent:?} and {control_plane:?}");
    let refused = lab.proxied()?.run(&["get", "namespaces"]).await?;
    ensure!(!refused.success() && refused.stderr.contains("is offline"), "kubectl says {refused:?}");

    ground.link.open();
    let back = ground.answers(BACK_WITHIN).await.context("after the way was open again")?;
    println!("a request was answered {back:?} after the way was open");
    ground.gateway_link.wait_ready(BACK_WITHIN).await
}
