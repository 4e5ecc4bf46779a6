//! Which agents are there, whether or not they take requests; and why a cluster takes none.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use protocol::message::Register;
use protocol::{AgentId, capability};

use super::{AgentLink, Carrier, Cluster};
use crate::older::{NO_TOKEN, OlderLink};

const LONGEST_VERSION: usize = 64;

/// A registered agent, for as long as its link is up.
#[derive(Debug)]
pub struct Presence {
    cluster: Arc<Cluster>,
    id: u64,
}

/// What is known of it.
#[derive(Clone, Debug)]
pub struct Present {
    id: u64,
    pub agent_id: AgentId,
    pub agent_version: String,
}

impl Present {
    fn new(id: u64, register: &Register) -> Self {
        Self {
            id,
            agent_id: register.agent_id.clone(),
            // Shown to users; an honest one is short.
            agent_version: register.agent_version.chars().take(LONGEST_VERSION).collect(),
        }
    }
}

impl Presence {
    /// The agent has registered again on the same link.
    pub fn update(&self, register: &Register) {
        let mut present = self.cluster.present();
        present.retain(|other| other.id != self.id);
        present.push(Present::new(self.id, register));
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.cluster.present().retain(|other| other.id != self.id);
        self.cluster.seen();
    }
}

impl Cluster {
    pub fn arrives(self: &Arc<Self>, register: &Register) -> Presence {
        self.seen();
        let id = self.arrivals.fetch_add(1, Relaxed);
        self.present().push(Present::new(id, register));
        Presence { cluster: Arc::clone(self), id }
    }

    /// Whether a link takes requests now.
    pub fn is_reachable(&self) -> bool {
        self.links().iter().any(|link| !link.leaving.is_cancelled())
    }

    /// Whether one also has what it needs to answer them.
    pub fn is_served(&self) -> bool {
        let served = |link: &AgentLink| link.messages().is_none_or(OlderLink::has_token);
        self.links().iter().any(|link| !link.leaving.is_cancelled() && served(link))
    }

    /// How requests reach the agent, as `GET /api/v1/clusters` shows it: none while none do.
    pub fn protocol(&self) -> Option<&'static str> {
        self.links().first().map(|link| match link.carrier {
            Carrier::Streams(_) => capability::STREAMS_2,
            Carrier::Messages(_) => "messages",
        })
    }

    /// For the user whose request is not served: what is the matter, and what to do.
    pub fn why_unreachable(&self) -> String {
        let name = self.record().name.clone();
        let (present, links) = (self.present().clone(), self.links().len());
        if self.is_reachable() {
            let agent = present.first().map(|agent| format!(" {} (version {:?})", agent.agent_id, agent.agent_version));
            return format!("cluster {name:?} takes no requests: its agent{} {NO_TOKEN}", agent.unwrap_or_default());
        }
        if links > 0 {
            return format!(
                "cluster {name:?} takes no new requests: its agent is shutting down, and no other is connected; try again soon"
            );
        }
        if !present.is_empty() {
            return format!("cluster {name:?} takes no requests yet: its agent has just connected; try again soon");
        }
        let since = match self.last_seen() {
            Some(when) => format!("it was last seen at {when}"),
            None => "it has not been seen since this control plane started".to_owned(),
        };
        format!("cluster {name:?} is offline: its agent is not connected; {since}")
    }
}
