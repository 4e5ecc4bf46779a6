//! Peers that break the rules, towards the control plane and towards the agent: each is refused with the reason, and nobody else
//! notices.

#[path = "hostile/agents.rs"]
mod agents;
#[path = "hostile/control_plane.rs"]
mod control_plane;
#[path = "hostile/users.rs"]
mod users;

use agents::{
    a_link_that_breaks_the_rules_is_closed_and_nobody_else_notices,
    a_second_agent_is_refused_with_the_reason_and_a_second_link_of_the_same_is_not, a_wrong_token_opens_no_link,
    an_agent_that_is_too_old_for_requests_is_said_to_be_so,
};
use anyhow::{Result, ensure};
use control_plane::an_agent_survives_a_control_plane_that_breaks_the_rules;
use e2e::{gauges::Look, scenes, stage::Stage, stage::run};
use std::{process::ExitCode, time::Duration};
use users::{a_header_of_a_mebibyte_is_refused, whoever_dawdles_is_shown_out_and_holds_up_nobody};

fn main() -> ExitCode {
    run(
        false,
        scenes![
            a_wrong_token_opens_no_link,
            a_second_agent_is_refused_with_the_reason_and_a_second_link_of_the_same_is_not,
            a_link_that_breaks_the_rules_is_closed_and_nobody_else_notices,
            an_agent_that_is_too_old_for_requests_is_said_to_be_so,
            an_agent_survives_a_control_plane_that_breaks_the_rules,
            a_header_of_a_mebibyte_is_refused,
            whoever_dawdles_is_shown_out_and_holds_up_nobody,
        ],
    )
}

/// What nobody else may notice: requests are answered, and no link of the good agents has been lost since.
struct Others {
    reconnections: f64,
}

impl Others {
    async fn now(stage: &Stage) -> Result<Self> {
        Ok(Self { reconnections: reconnections(stage).await? })
    }

    async fn are_well(&self, stage: &Stage) -> Result<()> {
        stage.answers(Duration::from_secs(2)).await?;
        let now = reconnections(stage).await?;
        ensure!(now <= self.reconnections, "good agents have lost links: {} -> {now}", self.reconnections);
        Ok(())
    }
}

async fn reconnections(stage: &Stage) -> Result<f64> {
    let name = "pipeops_agent_websocket_reconnections_total";
    let lab = Look::at(&*stage.process("gateway-link")?).await?;
    let side = Look::at(&stage.side.gateway_link).await?;
    ensure!(lab.metrics.contains_key(name), "there is no {name}: {:?}", lab.metrics.keys());
    Ok(lab.metric(name) + side.metric(name))
}
