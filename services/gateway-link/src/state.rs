//! What the process's parts know of the link: where it stands, and how to say something over it.

use std::sync::Arc;

use mux::Link;
use protocol::{AgentId, ClusterId};
use tokio::sync::watch;

use crate::metrics::{ConnectionState, Metrics};

/// A link that is registered.
#[derive(Clone, Debug)]
pub struct Up {
    pub link: Link,
    pub cluster_id: ClusterId,
    pub agent_id: AgentId,
}

#[derive(Clone, Debug)]
pub struct LinkState {
    pub connection: ConnectionState,
    pub up: Option<Up>,
    /// How many there have been, with the one that is up.
    pub links: u64,
}

impl LinkState {
    /// There was one, and it is not back.
    pub fn is_lost(&self) -> bool {
        self.links > 0 && self.up.is_none()
    }
}

/// Tells whoever wants to know.
#[derive(Debug)]
pub struct States {
    now: watch::Sender<LinkState>,
    metrics: Arc<Metrics>,
}

impl States {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let now = LinkState { connection: ConnectionState::Disconnected, up: None, links: 0 };
        Self { now: watch::Sender::new(now), metrics }
    }

    pub fn set(&self, connection: ConnectionState) {
        self.change(connection, None);
    }

    pub fn connected(&self, up: Up) {
        self.change(ConnectionState::Connected, Some(up));
    }

    pub fn subscribe(&self) -> watch::Receiver<LinkState> {
        self.now.subscribe()
    }

    fn change(&self, connection: ConnectionState, up: Option<Up>) {
        if self.now.borrow().connection != connection {
            self.metrics.state(connection);
        }
        self.now.send_modify(|now| {
            let links = now.links + u64::from(up.is_some());
            *now = LinkState { connection, up, links };
        });
    }
}
