//! The control plane's REST endpoints, for services of this agent that have neither a token nor a way out.
//!
//! No link is needed: a replica that stands by has the same token and knows the same cluster, by state-keeper.

use std::sync::Arc;

use bus::routes::{CALL_TIMEOUT, CallError, GetLink, LinkSeen, SyncRoutes, SyncTunnels, SyncedRoutes, UnregisterRoute};
use bus::state::{Done, GetIdentity};
use bus::{Bus, ServeError, Serving};
use bytes::Bytes;
use http::{Method, StatusCode};
use protocol::{ClusterId, Secret, Tunnel, TunnelId, endpoint};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::credentials::Credentials;
use crate::dial::{DialError, Dialer};
use crate::register::hostname;
use crate::session::Links;
use crate::state::LinkState;
use crate::tunnel::Forwards;

/// Of an answer that says no more than its status.
const LONGEST_REASON: usize = 300;

#[derive(Debug)]
pub struct Calls {
    bus: Bus,
    dialer: Dialer,
    credentials: Arc<Credentials>,
    state: watch::Receiver<LinkState>,
    /// Tunnels besides those that others ask for.
    forwards: Forwards,
    instance: String,
}

impl Calls {
    pub fn new(links: &Links, forwards: Forwards) -> Result<Arc<Self>, DialError> {
        Ok(Arc::new(Self {
            bus: links.forwarder.bus.clone(),
            dialer: Dialer::new(&links.options.pipeops)?,
            credentials: Arc::clone(&links.credentials),
            state: links.states.subscribe(),
            forwards,
            instance: format!("{}-{:08x}", hostname(), rand::random::<u32>()),
        }))
    }

    /// Answers until what it returns is stopped.
    pub async fn serve(self: Arc<Self>, bus: &Bus) -> Result<[Serving; 4], ServeError> {
        let [link, sync, unregister, tunnels] = std::array::from_fn(|_| Arc::clone(&self));
        Ok([
            bus.serve(move |_: GetLink| std::future::ready(Ok(link.link()))).await?,
            bus.serve(move |request| {
                let calls = Arc::clone(&sync);
                async move { calls.sync_routes(request).await }
            })
            .await?,
            bus.serve(move |request| {
                let calls = Arc::clone(&unregister);
                async move { calls.unregister(request).await }
            })
            .await?,
            bus.serve(move |request| {
                let calls = Arc::clone(&tunnels);
                async move { calls.sync_tunnels(request).await }
            })
            .await?,
        ])
    }

    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// Makes it one of the cluster's tunnels; gives it with its port.
    pub async fn register_tunnel(&self, tunnel: &Tunnel) -> Result<Tunnel, CallError> {
        let cluster = self.cluster().await?;
        let path = endpoint::TUNNELS.replace("{cluster}", cluster.as_str());
        let tunnel = Tunnel { cluster_uuid: cluster.to_string(), ..tunnel.clone() };
        read(&self.call(Method::POST, &path, json(&tunnel)?, &[StatusCode::OK, StatusCode::CREATED]).await?)
    }

    /// All tunnels of the cluster.
    pub async fn tunnels(&self) -> Result<Vec<Tunnel>, CallError> {
        let path = endpoint::TUNNELS.replace("{cluster}", self.cluster().await?.as_str());
        let listed: Option<_> = read(&self.call(Method::GET, &path, Vec::new(), &[StatusCode::OK]).await?)?;
        Ok(listed.unwrap_or_default())
    }

    pub async fn unregister_tunnel(&self, id: &TunnelId) -> Result<(), CallError> {
        let path = format!("{}/{id}", endpoint::TUNNELS.replace("{cluster}", self.cluster().await?.as_str()));
        match self.call(Method::DELETE, &path, Vec::new(), &[StatusCode::OK, StatusCode::NO_CONTENT]).await {
            // It is none already.
            Ok(_) | Err(CallError::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn link(&self) -> LinkSeen {
        let state = self.state.borrow();
        LinkSeen { instance: self.instance.clone(), links: state.links, connected: state.up.is_some() }
    }

    async fn sync_routes(&self, SyncRoutes { mut sync }: SyncRoutes) -> Result<SyncedRoutes, CallError> {
        sync.cluster_uuid = self.cluster().await?.to_string();
        let body = self.post(endpoint::ROUTES_SYNC, &sync).await?;
        // The published protocol has no answer here: whatever comes that is not ours says that it was taken, and no more.
        Ok(SyncedRoutes { answer: serde_json::from_slice(&body).ok() })
    }

    async fn unregister(&self, UnregisterRoute { route }: UnregisterRoute) -> Result<Done, CallError> {
        match self.post(endpoint::ROUTES_UNREGISTER, &route).await {
            // It is none already.
            Ok(_) | Err(CallError::Refused { status: 404, .. }) => Ok(Done {}),
            Err(error) => Err(error),
        }
    }

    async fn sync_tunnels(
        &self,
        SyncTunnels { mut sync }: SyncTunnels,
    ) -> Result<<SyncTunnels as bus::Request>::Reply, CallError> {
        let cluster = self.cluster().await?;
        // The set that is sent is the whole one.
        sync.tunnels.extend(self.forwards.tunnels().cloned());
        for named in sync.tunnels.iter_mut().map(|tunnel| &mut tunnel.cluster_uuid).chain([&mut sync.cluster_uuid]) {
            cluster.as_str().clone_into(named);
        }
        let path = format!("{}/sync", endpoint::TUNNELS.replace("{cluster}", cluster.as_str()));
        read(&self.post(&path, &sync).await?)
    }

    async fn post(&self, path: &str, payload: &impl Serialize) -> Result<Bytes, CallError> {
        self.call(Method::POST, path, json(payload)?, &[StatusCode::OK]).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        json: Vec<u8>,
        success: &[StatusCode],
    ) -> Result<Bytes, CallError> {
        // Coming back has waits of its own, and another replica may have a link.
        if self.state.borrow().is_lost() {
            let reason = "the link to the control plane is down, and is being made again".to_owned();
            return Err(CallError::NotConnected { reason });
        }
        let token = self.token().await?;
        let answer = self.dialer.request(method, &token, path, json, CALL_TIMEOUT).await;
        let answer = answer.map_err(|error| CallError::Unreachable { reason: runtime::error_text(&error) })?;
        match answer.status() {
            status if success.contains(&status) => Ok(answer.into_body()),
            status => Err(CallError::Refused { status: status.as_u16(), message: message(status, answer.body()) }),
        }
    }

    /// That of the link; without one, that of the last registration.
    async fn cluster(&self) -> Result<ClusterId, CallError> {
        let linked = self.state.borrow().up.as_ref().map(|up| up.cluster_id.clone());
        if let Some(cluster) = linked {
            return Ok(cluster);
        }
        let unknown = |reason: String| CallError::NotConnected { reason };
        let identity = self.bus.request(&GetIdentity {}).await.map_err(|error| unknown(error.to_string()))?;
        identity.cluster_id.ok_or_else(|| unknown("this cluster is not registered yet".to_owned()))
    }

    async fn token(&self) -> Result<Secret, CallError> {
        let given = self.credentials.given().await.map_err(|reason| CallError::NotConnected { reason })?;
        if let Some(token) = given {
            return Ok(token);
        }
        let credentials = Arc::clone(&self.credentials);
        let read = spawn_blocking(move || credentials.of_settings().map_err(|error| runtime::error_text(&error))).await;
        let token = read.map_err(|died| died.to_string()).and_then(|token| token);
        token.map_err(|reason| CallError::NotConnected { reason })
    }
}

fn json(payload: &impl Serialize) -> Result<Vec<u8>, CallError> {
    serde_json::to_vec(payload).map_err(|error| CallError::Unreadable { reason: error.to_string() })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body).map_err(|error| CallError::Unreadable { reason: error.to_string() })
}

/// What an answer that is none says.
fn message(status: StatusCode, body: &[u8]) -> String {
    let said = match serde_json::from_slice::<protocol::Status>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(body).trim().chars().take(LONGEST_REASON).collect(),
    };
    if said.is_empty() { status.canonical_reason().unwrap_or("no reason given").to_owned() } else { said }
}
