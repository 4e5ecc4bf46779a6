//! The ways to the bus break, for one of its users at a time.

use crate::ground::{Ground, breaks_off, get, watch};
use anyhow::{Context, Result, ensure};
use e2e::{Protocol, client::Target, gauges::Look, way::Way};
use lab::{Lab, until};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What the bus gives the other process to show a sign of life, and a second for what carries the end to the user.
const STREAMS_END_WITHIN: Duration = Duration::from_secs(2 + 1);
/// A request is refused when no executor takes it in 3 s.
const REFUSED_WITHIN: Duration = Duration::from_secs(3 + 2);
const BACK_WITHIN: Duration = Duration::from_secs(5);

pub async fn a_frozen_bus_fails_streams_visibly_and_leaves_links_alone(lab: Arc<Lab>) -> Result<()> {
    let ground = Ground::begin(&lab).await?;
    let outcome = async {
        frozen(&ground, &ground.link_bus).await.context("gateway-link's way to the bus")?;
        frozen(&ground, &ground.executor_bus).await.context("proxy-executor's way to the bus")
    };
    let outcome = outcome.await;
    ground.end().await?;
    outcome
}

pub async fn a_bus_that_is_cut_fails_streams_visibly_and_leaves_links_alone(lab: Arc<Lab>) -> Result<()> {
    let ground = Ground::begin(&lab).await?;
    let outcome = async {
        cut(&ground, &ground.link_bus).await.context("gateway-link's way to the bus")?;
        cut(&ground, &ground.executor_bus).await.context("proxy-executor's way to the bus")
    };
    let outcome = outcome.await;
    ground.end().await?;
    outcome
}

async fn frozen(ground: &Ground, way: &Way) -> Result<()> {
    let (links, watch) = (Links::of(ground).await?, watch(&ground.lab).await?);
    way.freeze();
    let ended = breaks_off(watch, STREAMS_END_WITHIN).await?;
    let refused = Instant::now();
    let said = refusal(&ground.lab).await?;
    println!("a watch ended after {ended:?}; a request was refused after {:?}: {said}", refused.elapsed());
    way.open();
    let back = ground.answers(BACK_WITHIN).await.context("after the way was open again")?;
    println!("a request was answered {back:?} after the way was open");
    links.are_the_same(ground).await
}

async fn cut(ground: &Ground, way: &Way) -> Result<()> {
    let (links, watch) = (Links::of(ground).await?, watch(&ground.lab).await?);
    // Nobody can come back at once: the reason is to be seen.
    way.refuse();
    way.cut();
    let ended = breaks_off(watch, STREAMS_END_WITHIN).await?;
    let said = refusal(&ground.lab).await?;
    println!("a watch ended after {ended:?}; a request was refused: {said}");
    way.open();
    let back = ground.answers(BACK_WITHIN).await.context("after the way was open again")?;
    println!("a request was answered {back:?} after the way was open");
    links.are_the_same(ground).await
}

/// The answer to a request that cannot be carried.
async fn refusal(lab: &Lab) -> Result<String> {
    let client = Target::new(lab, lab.cluster())?.http(Protocol::Http1)?;
    until("a refusal with its reason", REFUSED_WITHIN, || async {
        let Err(error) = get(lab, &client).await else { anyhow::bail!("a request is answered") };
        let error = format!("{error:#}");
        ensure!(error.starts_with("503") || error.starts_with("504"), "{error}");
        ensure!(error.contains("proxy-executor") || error.contains("bus"), "{error}");
        Ok(error)
    })
    .await
}

/// Both ends' view of the links.
#[derive(Debug, PartialEq)]
struct Links {
    up: f64,
    /// 2: connected.
    state: f64,
    reconnections: f64,
}

impl Links {
    async fn of(ground: &Ground) -> Result<Self> {
        let agent = Look::at(&ground.gateway_link).await?;
        Ok(Self {
            up: ground.control_plane().await?.metric("pipeops_control_plane_links"),
            state: agent.metric("pipeops_agent_connection_state"),
            reconnections: agent.metric("pipeops_agent_websocket_reconnections_total"),
        })
    }

    async fn are_the_same(&self, ground: &Ground) -> Result<()> {
        let now = Self::of(ground).await?;
        ensure!(*self == now && now.up == 1.0 && now.state == 2.0, "the link did not stay up: {self:?}, then {now:?}");
        Ok(())
    }
}
