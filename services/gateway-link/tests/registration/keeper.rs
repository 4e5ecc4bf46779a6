//! What state-keeper serves, in memory, to be looked at.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bus::state::{
    AcquireLease, Done, GetConfig, GetIdentity, GetLinkToken, Identity, LeaseState, LinkToken, ReleaseLease,
    SaveConfig, SaveLinkToken, SaveRegistration, StoredConfig, StoredLinkToken,
};
use bus::{LocalBus, Request, Service, Serving};
use protocol::{AgentId, ClusterConfig};

#[derive(Debug)]
pub struct Stored {
    pub identity: Identity,
    pub token: Option<LinkToken>,
    pub config: Option<ClusterConfig>,
    pub leases: HashMap<String, (String, Instant)>,
}

/// A bus with a state-keeper on it.
pub struct Keeper {
    pub bus: LocalBus,
    stored: Arc<Mutex<Stored>>,
    serving: Vec<Serving>,
}

impl Keeper {
    pub async fn start() -> Self {
        let bus = LocalBus::new();
        let identity = Identity { agent_id: AgentId::new("agent-1").unwrap(), cluster_id: None, gateway_ws_url: None };
        let stored = Stored { identity, token: None, config: None, leases: HashMap::new() };
        let mut this = Self { bus, stored: Arc::new(Mutex::new(stored)), serving: Vec::new() };
        this.comes_back().await;
        this
    }

    /// Answers, from here on, with what was stored before.
    pub async fn comes_back(&mut self) {
        self.serve(|stored, _: GetIdentity| stored.identity.clone()).await;
        self.serve(|stored, SaveRegistration { cluster_id, gateway_ws_url, .. }| {
            stored.identity.cluster_id = Some(cluster_id);
            stored.identity.gateway_ws_url = gateway_ws_url;
            stored.identity.clone()
        })
        .await;
        self.serve(|stored, _: GetLinkToken| StoredLinkToken { token: stored.token.clone() }).await;
        self.serve(|stored, SaveLinkToken { token }| {
            stored.token = token;
            Done {}
        })
        .await;
        self.serve(|stored, _: GetConfig| StoredConfig { config: stored.config.clone() }).await;
        self.serve(|stored, SaveConfig { config }| {
            stored.config = Some(config);
            Done {}
        })
        .await;
        self.serve(|stored, AcquireLease { name, holder, ttl_seconds }| {
            let until = Instant::now() + Duration::from_secs(ttl_seconds.into());
            let lease = stored.leases.entry(name.as_str().to_owned()).or_insert_with(|| (holder.clone(), until));
            if lease.0 == holder || lease.1 <= Instant::now() {
                *lease = (holder.clone(), until);
            }
            LeaseState { held: lease.0 == holder, holder: lease.0.clone() }
        })
        .await;
        self.serve(|stored, ReleaseLease { name, holder }| {
            stored.leases.retain(|held, lease| held != name.as_str() || lease.0 != holder);
            Done {}
        })
        .await;
    }

    pub fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap()
    }

    /// Nobody answers any more.
    pub fn goes_away(&mut self) {
        self.serving.clear();
    }

    async fn serve<R: Request>(&mut self, answer: fn(&mut Stored, R) -> R::Reply) {
        let stored = Arc::clone(&self.stored);
        let bus = self.bus.bus(Service::StateKeeper);
        let serving = bus.serve(move |request: R| {
            let reply = answer(&mut stored.lock().unwrap(), request);
            async move { Ok(reply) }
        });
        self.serving.push(serving.await.unwrap());
    }
}
