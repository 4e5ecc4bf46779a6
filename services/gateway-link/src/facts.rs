//! What the agent's other services say of themselves and of the cluster. Asked for in a task of its own, so that a service
//! that does not answer delays no heartbeat.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus::facts::{AskProxyExecutor, AskStateKeeper, ClusterFacts, Facts};
use bus::{Bus, Request, RequestError, Service};
use protocol::message::{ComponentState, HeartbeatMetadata};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

const INTERVAL: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default)]
pub struct Known(Arc<watch::Sender<BTreeMap<Service, Heard>>>);

/// What was heard of one service last.
#[derive(Clone, Debug)]
struct Heard {
    at: Instant,
    outcome: Result<Facts, String>,
    /// The cluster as it was seen last, and when that was said.
    cluster: Option<(ClusterFacts, Instant)>,
}

impl Known {
    /// Asks now and then. Never returns.
    pub async fn gather(self, bus: Bus) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            tokio::join!(self.ask(&bus, &AskProxyExecutor {}), self.ask(&bus, &AskStateKeeper {}));
        }
    }

    async fn ask<R>(&self, bus: &Bus, request: &R)
    where
        R: Request<Reply = Facts, Error = bus::facts::NoError>,
    {
        let outcome = bus.request(request).await.map_err(|error| match error {
            RequestError::NoResponder => "it is not there".to_owned(),
            error => error.to_string(),
        });
        let at = Instant::now();
        self.0.send_modify(|known| {
            let seen = outcome.as_ref().ok().and_then(|facts| facts.cluster.clone()).map(|cluster| (cluster, at));
            let cluster = seen.or_else(|| known.remove(&R::SERVED_BY)?.cluster);
            known.insert(R::SERVED_BY, Heard { at, outcome, cluster });
        });
    }

    /// Completes when something is known of the cluster.
    pub async fn cluster_seen(&self) {
        let mut known = self.0.subscribe();
        let seen = known.wait_for(|known| known.values().any(|heard| heard.cluster.is_some()));
        // The sender lives as long as this.
        let _known = seen.await;
    }

    /// Adds what is known, with its age.
    pub fn describe(&self, metadata: &mut HeartbeatMetadata) {
        let known = self.0.borrow().clone();
        for (service, heard) in known {
            let age = heard.at.elapsed().as_secs();
            if let Some((ClusterFacts { k8s_version, nodes, pods, age_seconds }, said)) = heard.cluster {
                metadata.k8s_version = k8s_version;
                metadata.k8s_nodes = nodes;
                metadata.k8s_pods = pods;
                metadata.k8s_age_seconds = Some(age_seconds.saturating_add(said.elapsed().as_secs()));
            }
            metadata.components.insert(service.to_string(), component(heard.outcome, age));
        }
    }
}

fn component(outcome: Result<Facts, String>, age_seconds: u64) -> ComponentState {
    match outcome {
        Ok(facts) => ComponentState {
            status: if facts.ready { "ready" } else { "not_ready" }.to_owned(),
            version: facts.version,
            uptime_seconds: Some(facts.uptime_seconds),
            reason: facts.not_ready.join("; "),
            age_seconds,
        },
        Err(reason) => {
            ComponentState { status: "unknown".to_owned(), reason, age_seconds, ..ComponentState::default() }
        }
    }
}
