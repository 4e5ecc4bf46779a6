//! One of several route-syncers talks to the control plane; who, is for state-keeper to say.

use std::time::Duration;

use bus::Bus;
use bus::state::{AcquireLease, LeaseName, LeaseState, ReleaseLease};
use tokio::time::sleep;

/// Held for this long without being renewed.
const TTL: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(5);
/// Between two attempts to get it.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Candidate {
    bus: Bus,
    holder: String,
}

impl Candidate {
    pub fn new(bus: Bus) -> Self {
        let host = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
        Self { bus, holder: format!("{}-{:08x}", host.as_deref().unwrap_or("route-syncer"), rand::random::<u32>()) }
    }

    pub fn name(&self) -> &str {
        &self.holder
    }

    /// Waits until it is this one.
    pub async fn elected(&self) {
        let mut said = String::new();
        loop {
            let waiting = match self.ask().await {
                Ok(LeaseState { held: true, .. }) => return,
                Ok(LeaseState { holder, .. }) => format!("standing by: {holder} leads"),
                Err(error) => format!("standing by: state-keeper does not say who leads: {error}"),
            };
            if waiting != said {
                tracing::info!("{waiting}");
                said = waiting;
            }
            sleep(PAUSE).await;
        }
    }

    /// Renews it. Resolves with who leads when that is another. While state-keeper is away nobody else can become it, and two
    /// that lead would say the same.
    pub async fn lost(&self) -> String {
        loop {
            sleep(RENEWAL).await;
            match self.ask().await {
                Ok(LeaseState { held: false, holder }) => return holder,
                Ok(LeaseState { .. }) => {}
                Err(error) => tracing::warn!(error, "the lease cannot be renewed now"),
            }
        }
    }

    pub async fn release(self) {
        let request = ReleaseLease { name: LeaseName::RouteSyncer, holder: self.holder };
        if let Err(error) = self.bus.request(&request).await {
            tracing::debug!(%error, "the lease is not given back: it ends by itself");
        }
    }

    async fn ask(&self) -> Result<LeaseState, String> {
        let ttl_seconds = u32::try_from(TTL.as_secs()).unwrap_or(u32::MAX);
        let request = AcquireLease { name: LeaseName::RouteSyncer, holder: self.holder.clone(), ttl_seconds };
        self.bus.request(&request).await.map_err(|error| error.to_string())
    }
}
