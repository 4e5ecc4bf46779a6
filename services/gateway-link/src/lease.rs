//! The right to be the cluster's one link, for control planes that take no more. Who holds it is for state-keeper to say.

use std::time::Duration;

use bus::Bus;
use bus::state::{AcquireLease, LeaseName, LeaseState, ReleaseLease};
use tokio::time::{Instant, sleep};

/// Held for this long without being renewed.
const TTL: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(5);
/// Between two attempts to get it.
const PAUSE: Duration = Duration::from_secs(1);

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
    until: Instant,
}

impl Candidate {
    pub fn new(bus: Bus, host: &str) -> Self {
        Self { bus, holder: format!("{host}-{:08x}", rand::random::<u32>()) }
    }

    /// Waits for it.
    pub async fn wait(&self, mut waiting: impl FnMut(String)) -> Held {
        loop {
            match self.ask().await {
                Ok((LeaseState { held: true, .. }, until)) => return Held { candidate: self.clone(), until },
                Ok((LeaseState { holder, .. }, _)) => {
                    waiting(format!("standing by: {holder} has the link to a control plane that takes one only"));
                }
                Err(error) => waiting(format!("no lease from state-keeper: {error}")),
            }
            sleep(PAUSE).await;
        }
    }

    /// What state-keeper says, and until when it holds at least.
    async fn ask(&self) -> Result<(LeaseState, Instant), String> {
        let until = Instant::now() + TTL;
        let ttl_seconds = u32::try_from(TTL.as_secs()).unwrap_or(u32::MAX);
        let request = AcquireLease { name: LeaseName::GatewayLink, holder: self.holder.clone(), ttl_seconds };
        let state = self.bus.request(&request).await.map_err(|error| error.to_string())?;
        Ok((state, until))
    }
}

impl Held {
    /// Renews it. Resolves with the reason when another may have it.
    pub async fn lost(&mut self) -> String {
        loop {
            sleep(RENEWAL).await;
            let why = match self.candidate.ask().await {
                Ok((LeaseState { held: true, .. }, until)) => {
                    self.until = until;
                    continue;
                }
                Ok((LeaseState { holder, .. }, _)) => return format!("{holder} has taken it"),
                Err(error) => error,
            };
            if Instant::now() + RENEWAL >= self.until {
                return why;
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
