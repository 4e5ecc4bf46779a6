//! The tunnels' REST endpoints. Agents say what tunnels their cluster has; users see those of the clusters they reach.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use protocol::tunnel::{RejectedTunnel, TunnelSyncAnswer};
use protocol::{ClusterId, Status, Tunnel, TunnelId, endpoint};
use runtime::error_text;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::callers::{Answer, Callers, read, respond};
use super::record::{Owner, TunnelRecord};
use super::registry::Registry;
use super::{States, shown};
use crate::options;
use crate::stay::Stay;
use crate::store::StoreError;

/// How long an agent waits for its port.
const OPENING: Duration = Duration::from_secs(5);
/// Largest body: as many tunnels as a cluster may have, and some.
const MAX_BODY: usize = 4 << 20;

/// What the endpoints need.
#[derive(Clone, Debug)]
pub struct Api {
    pub callers: Callers,
    pub registry: Arc<Registry>,
    pub states: watch::Receiver<Arc<States>>,
    pub options: options::Gateway,
}

/// As [`protocol::tunnel::TunnelSync`], with entries that may be anything.
#[derive(Deserialize)]
struct Sync {
    tunnels: Option<Vec<Value>>,
}

pub fn router(api: Api) -> Router {
    let one = format!("{}/{{tunnel}}", endpoint::TUNNELS);
    let sync_path = format!("{}/sync", endpoint::TUNNELS);
    Router::new()
        .route(endpoint::TUNNELS, get(list).post(register))
        .route(&sync_path, post(sync))
        .route(&one, delete(unregister))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

async fn list(
    State(api): State<Api>,
    Extension(stay): Extension<Arc<Stay>>,
    Path(cluster): Path<String>,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let cluster = api.callers.readable(&cluster, &headers).await?.record().id.clone();
        let _authenticated = stay.authenticated();
        let (host, states) = (api.host(&headers), Arc::clone(&api.states.borrow()));
        let records = api.registry.of(&cluster);
        let tunnels = records.iter().map(|record| shown(record, states.get(&record.name), &host));
        Ok(Json(tunnels.collect::<Vec<_>>()))
    };
    respond(answer.await)
}

async fn register(
    State(api): State<Api>,
    Extension(stay): Extension<Arc<Stay>>,
    Path(cluster): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async {
        let cluster = api.callers.agent_of(&cluster, &headers).await?.record().id.clone();
        let _authenticated = stay.authenticated();
        let tunnel: Tunnel = read(&body)?;
        let before = api.registry.of(&cluster);
        let record = api.plan(&cluster, tunnel, &before).map_err(|reason| Box::new(Status::bad_request(reason)))?;
        if before.len() >= api.options.max_tunnels && !before.iter().any(|old| old.name == record.name) {
            return Err(Box::new(Status::too_many_requests(api.too_many())));
        }
        let (records, gone) = (vec![record.clone()], Vec::new());
        api.store(records, gone).await?;
        let states = api.opened(&[&record]).await;
        let answer = api.answer(&record, &states, &api.host(&headers));
        match &answer.error {
            // It is tried again for as long as it is registered.
            Some(error) => Err(Box::new(Status::unavailable(format!("tunnel {}: {error}", answer.tunnel_id)))),
            None => Ok(Json(answer)),
        }
    };
    respond(answer.await)
}

async fn sync(
    State(api): State<Api>,
    Extension(stay): Extension<Arc<Stay>>,
    Path(cluster): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async {
        let cluster = api.callers.agent_of(&cluster, &headers).await?.record().id.clone();
        let _authenticated = stay.authenticated();
        let asked = read::<Sync>(&body)?.tunnels.unwrap_or_default();
        let before = api.registry.of(&cluster);
        let operators = before.iter().filter(|record| record.owner == Owner::Operator).count();
        let room = api.options.max_tunnels.saturating_sub(operators);
        let (mut planned, mut rejected) = (Vec::<TunnelRecord>::new(), Vec::new());
        for asked in asked {
            let id = asked.get("tunnel_id").and_then(Value::as_str).unwrap_or_default();
            let tunnel_id = id.chars().take(TunnelId::MAX).collect();
            let tunnel = serde_json::from_value::<Tunnel>(asked).map_err(|error| error.to_string());
            match tunnel.and_then(|tunnel| api.plan(&cluster, tunnel, &before)) {
                Ok(record) if planned.iter().any(|other| other.name == record.name) => {
                    rejected.push(RejectedTunnel { tunnel_id, reason: "another one has the same tunnel_id".into() });
                }
                Ok(_) if planned.len() >= room => rejected.push(RejectedTunnel { tunnel_id, reason: api.too_many() }),
                Ok(record) => planned.push(record),
                Err(reason) => rejected.push(RejectedTunnel { tunnel_id, reason }),
            }
        }
        let goes = |old: &&Arc<TunnelRecord>| {
            old.owner == Owner::Agent && !planned.iter().any(|record| record.name == old.name)
        };
        let gone = before.iter().filter(goes).map(|old| old.name.clone()).collect();
        api.store(planned.clone(), gone).await?;
        let states = api.opened(&planned.iter().collect::<Vec<_>>()).await;
        let host = api.host(&headers);
        let mut accepted = Vec::new();
        for record in &planned {
            let answer = api.answer(record, &states, &host);
            match answer.error.clone() {
                Some(reason) => rejected.push(RejectedTunnel { tunnel_id: answer.tunnel_id.to_string(), reason }),
                None => accepted.push(answer),
            }
        }
        Ok(Json(TunnelSyncAnswer { accepted, rejected }))
    };
    respond(answer.await)
}

async fn unregister(
    State(api): State<Api>,
    Extension(stay): Extension<Arc<Stay>>,
    Path((cluster, tunnel)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let cluster = api.callers.agent_of(&cluster, &headers).await?.record().id.clone();
        let _authenticated = stay.authenticated();
        let missing = || Box::new(Status::not_found(format!("there is no tunnel {tunnel:?} in this cluster")));
        let records = api.registry.of(&cluster);
        let record = records.iter().find(|record| record.tunnel.tunnel_id.as_str() == tunnel).ok_or_else(missing)?;
        if record.owner == Owner::Operator {
            return Err(Box::new(Status::forbidden(OPERATORS)));
        }
        api.store(Vec::new(), vec![record.name.clone()]).await?;
        Ok(StatusCode::NO_CONTENT)
    };
    respond(answer.await)
}

const OPERATORS: &str = "a tunnel of that id was made by whoever runs the control plane, who alone can change it";

impl Api {
    /// The record of a tunnel that an agent asks for; what it has of before stays. An error says why there is none.
    fn plan(&self, cluster: &ClusterId, tunnel: Tunnel, before: &[Arc<TunnelRecord>]) -> Result<TunnelRecord, String> {
        tunnel.check().map_err(|error| error_text(&error))?;
        if let Some(port) = tunnel.tunnel_port.filter(|port| !self.options.ports.holds(*port)) {
            return Err(format!("port {port} is not among those for tunnels, {}", self.options.ports));
        }
        let mut record = TunnelRecord::new(cluster.clone(), Owner::Agent, tunnel);
        if let Some(old) = before.iter().find(|old| old.name == record.name) {
            if old.owner == Owner::Operator {
                return Err(OPERATORS.to_owned());
            }
            record.created = old.created;
            if record.tunnel.protocol == old.tunnel.protocol {
                record.tunnel.tunnel_port = record.tunnel.tunnel_port.or(old.tunnel.tunnel_port);
            }
        }
        Ok(record)
    }

    fn too_many(&self) -> String {
        format!("this cluster has as many tunnels as it may have, {} (gateway.max_tunnels)", self.options.max_tunnels)
    }

    /// Writes what has changed.
    async fn store(&self, records: Vec<TunnelRecord>, gone: Vec<String>) -> Answer<()> {
        let known = self.registry.all();
        let changed: Vec<_> =
            records.into_iter().filter(|record| known.get(&record.name).is_none_or(|old| **old != *record)).collect();
        let stored = self.registry.change(move |folder| {
            changed.iter().try_for_each(|record| folder.put(record))?;
            gone.iter().try_for_each(|name| folder.remove(name).map(drop))
        });
        stored.await.map_err(|error: StoreError| {
            tracing::error!(error = error_text(&error), "cannot store a tunnel");
            Box::new(Status::unavailable("the control plane cannot store the tunnel, its log says why; try again"))
        })
    }

    /// Once the ports of all of them are open, or cannot be opened, or for as long as one may wait for that.
    async fn opened(&self, records: &[&TunnelRecord]) -> Arc<States> {
        let mut states = self.states.clone();
        let settled = |states: &Arc<States>| {
            records.iter().filter(|record| record.tunnel.has_port()).all(|record| match states.get(&record.name) {
                Some(Ok(port)) => record.tunnel.tunnel_port.is_none_or(|asked| asked == *port),
                Some(Err(_)) => true,
                None => false,
            })
        };
        match timeout(OPENING, states.wait_for(settled)).await {
            Ok(Ok(states)) => Arc::clone(&states),
            Ok(Err(_)) | Err(_) => Arc::clone(&self.states.borrow()),
        }
    }

    fn answer(&self, record: &TunnelRecord, states: &States, host: &str) -> Tunnel {
        shown(record, states.get(&record.name), host)
    }

    /// Under which clients reach the ports.
    fn host(&self, headers: &HeaderMap) -> String {
        if let Some(host) = &self.options.host {
            return host.clone();
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let authority = host.parse::<http::uri::Authority>().ok();
        authority.map_or_else(String::new, |authority| authority.host().trim_matches(['[', ']']).to_owned())
    }
}
