//! The right to be the cluster's one link, for control planes that take no more. Who holds it is for state-keeper to say.
//!
//! It keeps replicas from taking the link from each other, and is no condition of having one: while state-keeper cannot
//! say who holds it, nobody stands by.

use std::time::Duration;

use bus::Bus;
use bus::state::{AcquireLease, LeaseName, LeaseState, ReleaseLease};
use tokio::time::sleep;

/// Held for this long without being renewed.
const TTL: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(5);
/// Between two attempts to get it.
const PAUSE: Duration = Duration::from_secs(1);
/// Attempts after which it is gone without.
const ATTEMPTS: usize = 3;

/// Which instance this is.
#[derive(Clone, Debug)]
pub struct Candidate {
    bus: Bus,
    holder: String,
}

/// The lease, for as long as it is renewed.
#[derive(Debug)]
pub struct Held {
    candidate: Candidate,
}

impl Candidate {
    pub fn new(bus: Bus, host: &str) -> Self {
        Self { bus, holder: format!("{host}-{:08x}", rand::random::<u32>()) }
    }

    /// Waits for it. None: nobody can say who has it.
    pub async fn wait(&self, mut waiting: impl FnMut(String)) -> Option<Held> {
        let mut failures = 0;
        loop {
            match self.ask().await {
                Ok(LeaseState { held: true, .. }) => return Some(Held { candidate: self.clone() }),
                Ok(LeaseState { holder, .. }) => {
                    failures = 0;
                    waiting(format!("standing by: {holder} has the link to a control plane that takes one only"));
                }
                Err(error) => {
                    failures += 1;
                    if failures == ATTEMPTS {
                        tracing::warn!(%error, "no lease from state-keeper: going without, as if there were no other replica");
                        return None;
                    }
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask(&self) -> Result<LeaseState, String> {
        let ttl_seconds = u32::try_from(TTL.as_secs()).unwrap_or(u32::MAX);
        let request = AcquireLease { name: LeaseName::GatewayLink, holder: self.holder.clone(), ttl_seconds };
        self.bus.request(&request).await.map_err(|error| error.to_string())
    }
}

impl Held {
    /// Renews it. Resolves with who has it when that is another.
    pub async fn lost(&self) -> String {
        loop {
            sleep(RENEWAL).await;
            match self.candidate.ask().await {
                Ok(LeaseState { held: false, holder }) => return holder,
                Ok(LeaseState { .. }) => {}
                Err(error) => tracing::warn!(%error, "the lease of the link cannot be renewed now"),
            }
        }
    }

    pub async fn release(self) {
        let Candidate { bus, holder } = self.candidate;
        if let Err(error) = bus.request(&ReleaseLease { name: LeaseName::GatewayLink, holder }).await {
            tracing::debug!(%error, "the lease is not given back: it ends by itself");
        }
    }
}
