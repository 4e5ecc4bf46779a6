//! Whether there are new links to the control plane: after each, it is told everything again. It may have lost what it knew.

use std::collections::HashMap;
use std::time::Duration;

use bus::Bus;
use bus::routes::GetLink;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

const INTERVAL: Duration = Duration::from_secs(2);
/// Replicas that were seen, more than ever run at a time: those that are gone are forgotten with all others.
const MOST: usize = 64;

/// Asks now and then, and counts in `new`. Which replica answers is chance: each is asked sooner or later. Never returns.
pub async fn follow(bus: Bus, new: watch::Sender<u64>) {
    let mut seen = HashMap::new();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(link) = bus.request(&GetLink {}).await else { continue };
        if !link.connected || seen.get(&link.instance) == Some(&link.links) {
            continue;
        }
        if seen.len() >= MOST {
            seen.clear();
        }
        seen.insert(link.instance, link.links);
        new.send_modify(|new| *new += 1);
    }
}
