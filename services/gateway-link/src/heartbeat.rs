use std::sync::Arc;
use std::time::Duration;

use mux::Link;
use protocol::message::{Heartbeat, HeartbeatMetadata};
use protocol::{AgentId, AgentMessage, ClusterId};
use tokio::time::{MissedTickBehavior, interval};

use crate::metrics::Metrics;

/// Sends heartbeats, the first at once, until the link is gone. In a task of its own: nothing else delays it.
pub async fn heartbeats(
    link: Link,
    every: Duration,
    cluster_id: ClusterId,
    agent_id: AgentId,
    version: String,
    metrics: Arc<Metrics>,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let metadata =
            HeartbeatMetadata { agent_version: version.clone(), is_private: true, ..HeartbeatMetadata::default() };
        let heartbeat = Heartbeat::healthy(cluster_id.clone(), agent_id.clone(), metadata);
        let sent = link.send(AgentMessage::Heartbeat(Box::new(heartbeat)).encode(None)).await;
        metrics.heartbeat(sent.is_ok());
        if sent.is_err() {
            return;
        }
    }
}
