//! The tunnels' REST endpoints. Agents say what tunnels their cluster has; users see those of the clusters they reach.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{self, DefaultBodyLimit, Path};
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
use super::{State, States, shown};
use crate::options;
use crate::site::Client;
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
    pub states: watch::Receiver<States>,
    pub options: options::Gateway,
}

/// As [`protocol::tunnel::TunnelSync`], with entries that may be anything.
#[derive(Deserialize)]
struct Sync {
    /// Nullable, and not to be left out: a set that is not sent is not an empty one.
    #[serde(deserialize_with = "Deserialize::deserialize")]
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
    extract::State(api): extract::State<Api>,
    Extension(client): Extension<Client>,
    Path(cluster): Path<String>,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let cluster = api.callers.readable(&cluster, &headers, &client).await?.record().id.clone();
        let _authenticated = client.stay.authenticated();
        let (host, states) = (api.host(&headers), api.states.borrow());
        let records = api.registry.of(&cluster);
        let tunnels = records.iter().map(|record| shown(record, states.get(&record.name), &host));
        Ok(Json(tunnels.collect::<Vec<_>>()))
    };
    respond(answer.await)
}

async fn register(
    extract::State(api): extract::State<Api>,
    Extension(client): Extension<Client>,
    Path(cluster): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async {
        let cluster = api.callers.agent_of(&cluster, &headers, &client).await?.record().id.clone();
        let _authenticated = client.stay.authenticated();
        let tunnel: Tunnel = read(&body)?;
        let record = api.plan(&cluster, tunnel).map_err(|reason| Box::new(Status::bad_request(reason)))?;
        let before = api.registry.of(&cluster);
        if before.len() >= api.options.max_tunnels && !before.iter().any(|old| old.name == record.name) {
            return Err(Box::new(Status::too_many_requests(api.too_many())));
        }
        if let Some(owner) = api.owner_of_port(&record) {
            return Err(Box::new(Status::failure(409, "Conflict", owner)));
        }
        let Stored { records, .. } = api.store(vec![record], Vec::new()).await?;
        let Some(record) = records.first() else { return Err(Box::new(Status::forbidden(OPERATORS))) };
        let state = api.opened(&records).await.pop().flatten();
        let answer = shown(record, state.as_ref(), &api.host(&headers));
        match &answer.error {
            // It is tried again for as long as it is registered.
            Some(error) => Err(Box::new(Status::unavailable(format!("tunnel {}: {error}", answer.tunnel_id)))),
            None => Ok(Json(answer)),
        }
    };
    respond(answer.await)
}

async fn sync(
    extract::State(api): extract::State<Api>,
    Extension(client): Extension<Client>,
    Path(cluster): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async {
        let cluster = api.callers.agent_of(&cluster, &headers, &client).await?.record().id.clone();
        let _authenticated = client.stay.authenticated();
        let asked = read::<Sync>(&body)?.tunnels.unwrap_or_default();
        let before = api.registry.of(&cluster);
        let operators = before.iter().filter(|record| record.owner == Owner::Operator).count();
        let room = api.options.max_tunnels.saturating_sub(operators);
        let (mut planned, mut rejected) = (Vec::<TunnelRecord>::new(), Vec::new());
        for asked in asked {
            let id = asked.get("tunnel_id").and_then(Value::as_str).unwrap_or_default();
            let tunnel_id: String = id.chars().take(TunnelId::MAX).collect();
            let tunnel = serde_json::from_value::<Tunnel>(asked).map_err(|error| error.to_string());
            let reason = match tunnel.and_then(|tunnel| api.plan(&cluster, tunnel)) {
                Ok(record) if planned.iter().any(|other| other.name == record.name) => {
                    "another one has the same tunnel_id".into()
                }
                Ok(_) if planned.len() >= room => api.too_many(),
                Ok(record) => match api.owner_of_port(&record) {
                    Some(owner) => owner,
                    None => {
                        planned.push(record);
                        continue;
                    }
                },
                Err(reason) => reason,
            };
            rejected.push(RejectedTunnel { tunnel_id, reason });
        }
        let goes = |old: &&Arc<TunnelRecord>| {
            old.owner == Owner::Agent && !planned.iter().any(|record| record.name == old.name)
        };
        let gone = before.iter().filter(goes).map(|old| old.name.clone()).collect();
        let Stored { records, refused } = api.store(planned, gone).await?;
        rejected.extend(refused.into_iter().map(|id| RejectedTunnel { tunnel_id: id, reason: OPERATORS.into() }));
        let host = api.host(&headers);
        let mut accepted = Vec::new();
        for (record, state) in records.iter().zip(api.opened(&records).await) {
            let answer = shown(record, state.as_ref(), &host);
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
    extract::State(api): extract::State<Api>,
    Extension(client): Extension<Client>,
    Path((cluster, tunnel)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let cluster = api.callers.agent_of(&cluster, &headers, &client).await?.record().id.clone();
        let _authenticated = client.stay.authenticated();
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

/// What was written, and the ids of those that are not the agent's.
#[derive(Debug, Default)]
struct Stored {
    records: Vec<TunnelRecord>,
    refused: Vec<String>,
}

const OPERATORS: &str = "a tunnel of that id was made by whoever runs the control plane, who alone can change it";

impl Api {
    /// The record of a tunnel that an agent asks for. An error says why there is none.
    fn plan(&self, cluster: &ClusterId, tunnel: Tunnel) -> Result<TunnelRecord, String> {
        tunnel.check().map_err(|error| error_text(&error))?;
        if let Some(port) = tunnel.tunnel_port.filter(|port| !self.options.ports.holds(*port)) {
            return Err(format!("port {port} is not among those for tunnels, {}", self.options.ports));
        }
        Ok(TunnelRecord::new(cluster.clone(), Owner::Agent, tunnel))
    }

    /// That the port that is asked for is another tunnel's.
    fn owner_of_port(&self, record: &TunnelRecord) -> Option<String> {
        let port = record.asked_port.filter(|_| record.tunnel.has_port())?;
        let has = |other: &TunnelRecord| {
            other.name != record.name
                && other.tunnel.protocol == record.tunnel.protocol
                && other.tunnel.tunnel_port == Some(port)
        };
        // Whose it is, is not for other clusters to know.
        self.registry.all().values().any(|other| has(other)).then(|| format!("port {port} is another tunnel's"))
    }

    fn too_many(&self) -> String {
        format!("this cluster has as many tunnels as it may have, {} (gateway.max_tunnels)", self.options.max_tunnels)
    }

    /// Writes what has changed, over what is there and the agent's own.
    async fn store(&self, records: Vec<TunnelRecord>, gone: Vec<String>) -> Answer<Stored> {
        let stored = self.registry.change(move |folder, changes| {
            let mut stored = Stored::default();
            for record in records {
                let old = folder.get(&record.name)?;
                let record = match &old {
                    Some(old) if old.owner == Owner::Operator => {
                        stored.refused.push(record.tunnel.tunnel_id.to_string());
                        continue;
                    }
                    Some(old) => record.after(old),
                    None => record,
                };
                if old.as_ref() != Some(&record) {
                    folder.put(&record)?;
                    changes.push((record.name.clone(), Some(record.clone())));
                }
                stored.records.push(record);
            }
            for name in gone {
                if folder.get(&name)?.is_some_and(|old| old.owner == Owner::Agent) {
                    folder.remove(&name)?;
                    changes.push((name, None));
                }
            }
            Ok(stored)
        });
        stored.await.map_err(|error: StoreError| {
            tracing::error!(error = error_text(&error), "cannot store a tunnel");
            Box::new(Status::unavailable("the control plane cannot store the tunnel, its log says why; try again"))
        })
    }

    /// What became of each, once that is known, or for as long as one may wait for it.
    async fn opened(&self, records: &[TunnelRecord]) -> Vec<Option<State>> {
        let of = |states: &States, record: &TunnelRecord| {
            states.get(&record.name).filter(|state| state.of.asks_the_same(record)).cloned()
        };
        let mut states = self.states.clone();
        let settled = |states: &States| {
            records.iter().filter(|record| record.tunnel.has_port()).all(|record| of(states, record).is_some())
        };
        // What is not settled by then shows as that.
        let _in_time = timeout(OPENING, states.wait_for(settled)).await.is_ok();
        let states = self.states.borrow();
        records.iter().map(|record| of(&states, record)).collect()
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
