//! What the control plane allows, asked of state-keeper over and over: nothing is lost by an answer that did not come.

use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use bus::state::{CONFIG_INTERVAL, GetConfig};
use runtime::Condition;
use tokio::time::sleep;

use crate::policy::Limits;

/// Before the first answer there is nothing else to do.
const FIRST_INTERVAL: Duration = Duration::from_millis(500);

/// Keeps `limits` as they are wished for; while state-keeper is away, as they were. Never returns.
pub async fn follow(bus: Bus, limits: Arc<Limits>, condition: Condition) {
    let (mut known, mut failing) = (false, false);
    loop {
        match bus.request(&GetConfig {}).await {
            Ok(stored) => {
                limits.push(stored.config.and_then(|config| config.proxy).unwrap_or_default());
                condition.ready();
                (known, failing) = (true, false);
            }
            Err(error) if known => {
                if !failing {
                    tracing::warn!(%error, "state-keeper does not say what the control plane allows; the last word counts");
                }
                failing = true;
            }
            Err(error) => condition.not_ready(format!(
                "no request is taken before state-keeper has said what the control plane allows: {error}"
            )),
        }
        sleep(if known { CONFIG_INTERVAL } else { FIRST_INTERVAL }).await;
    }
}
