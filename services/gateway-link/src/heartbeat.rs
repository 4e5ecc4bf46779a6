use std::sync::Arc;
use std::time::Duration;

use protocol::AgentMessage;
use protocol::message::{ComponentState, Heartbeat, HeartbeatMetadata};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::facts::Known;
use crate::metrics::{ConnectionState, Metrics};
use crate::options::Agent;
use crate::state::{LinkState, Up};

/// How often one is due, by the state of the link. What the control plane has pushed goes before the setting.
#[derive(Clone, Debug)]
pub struct Cadence {
    connected: Duration,
    reconnecting: Duration,
    disconnected: Duration,
    pushed: watch::Receiver<Option<Duration>>,
}

impl Cadence {
    pub fn new(options: &Agent, pushed: watch::Receiver<Option<Duration>>) -> Self {
        Self {
            connected: options.heartbeat_interval_connected.get(),
            reconnecting: options.heartbeat_interval_reconnecting.get(),
            disconnected: options.heartbeat_interval_disconnected.get(),
            pushed,
        }
    }

    fn interval(&mut self, state: ConnectionState) -> Duration {
        match state {
            ConnectionState::Connected => self.pushed.borrow_and_update().unwrap_or(self.connected),
            ConnectionState::Connecting | ConnectionState::Reconnecting => self.reconnecting,
            ConnectionState::Disconnected => self.disconnected,
        }
    }
}

/// Sends heartbeats while there is a link, the first of each at once, and one more as soon as there is something to say of the
/// cluster, if that one could not; else counts those that were due. One task of the process: nothing else delays it. Never
/// returns.
pub struct Heartbeats {
    pub cadence: Cadence,
    pub states: watch::Receiver<LinkState>,
    pub known: Known,
    pub metrics: Arc<Metrics>,
    pub version: &'static str,
    /// Of the process.
    pub begun: Instant,
}

impl Heartbeats {
    pub async fn run(mut self) {
        let mut last = Instant::now();
        let mut state = ConnectionState::Disconnected;
        // The last on this link knew nothing of the cluster.
        let mut empty = false;
        loop {
            let due = last + self.cadence.interval(state);
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.known.cluster_seen(), if empty => {}
                changed = self.states.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    empty = false;
                    let before = std::mem::replace(&mut state, self.states.borrow_and_update().connection);
                    if state != ConnectionState::Connected || before == ConnectionState::Connected {
                        continue;
                    }
                }
                Ok(()) = self.cadence.pushed.changed() => continue,
            }
            last = Instant::now();
            let up = self.states.borrow().up.clone();
            empty = match up {
                Some(up) => !self.send(up).await,
                None => {
                    self.metrics.heartbeat_skipped();
                    false
                }
            };
        }
    }

    /// Whether it says something of the cluster.
    async fn send(&self, up: Up) -> bool {
        let uptime = self.begun.elapsed().as_secs();
        let mut metadata = HeartbeatMetadata {
            agent_version: self.version.to_owned(),
            is_private: true,
            uptime_seconds: Some(uptime),
            gateway_state: ConnectionState::Connected.as_str().to_owned(),
            ..HeartbeatMetadata::default()
        };
        self.known.describe(&mut metadata);
        let tells = metadata.k8s_age_seconds.is_some();
        let own = ComponentState {
            status: "ready".to_owned(),
            version: self.version.to_owned(),
            uptime_seconds: Some(uptime),
            ..ComponentState::default()
        };
        metadata.components.insert(bus::Service::GatewayLink.to_string(), own);
        let heartbeat = Heartbeat::healthy(up.cluster_id, up.agent_id, metadata);
        let begun = Instant::now();
        let sent = up.link.send(AgentMessage::Heartbeat(Box::new(heartbeat)).encode(None)).await;
        self.metrics.heartbeat(sent.is_ok(), begun.elapsed());
        tells
    }
}
