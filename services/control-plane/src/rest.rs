//! What the control plane says of itself.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use protocol::message::HeartbeatMetadata;
use protocol::{ConfigAck, Status, endpoint};
use serde::Serialize;

use crate::auth::{Grant, TokenRecord, Tokens};
use crate::clusters::{Cluster, Clusters, Told};
use crate::site::Client;

#[derive(Clone, Debug)]
struct Api {
    tokens: Arc<Tokens>,
    clusters: Arc<Clusters>,
}

/// A cluster as `GET /api/v1/clusters` shows it.
#[derive(Debug, Serialize)]
struct ClusterView {
    id: String,
    name: String,
    /// `connected` or `disconnected`.
    status: &'static str,
    /// Those that carry requests.
    links: usize,
    /// How they do: `streams/2`, or `messages` where the agent speaks only the older protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    /// Why requests are refused now.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreachable: Option<String>,
    agent_id: Option<String>,
    agent_versions: Vec<String>,
    last_seen: Option<jiff::Timestamp>,
    /// What the agent's last heartbeat said of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat: Option<HeartbeatMetadata>,
    /// What the agent answered to the configuration that it was pushed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<ConfigAck>,
}

#[derive(Debug, Serialize)]
struct ClusterList {
    clusters: Vec<ClusterView>,
}

/// `more`: what others answer beside it.
pub fn router(tokens: Arc<Tokens>, clusters: Arc<Clusters>, more: Router) -> Router {
    Router::new()
        .route(endpoint::CLUSTERS, get(list))
        .fallback(async |uri: axum::http::Uri| {
            failure(&Status::not_found(format!("there is nothing at {}", uri.path())))
        })
        .with_state(Api { tokens, clusters })
        .merge(more)
        .method_not_allowed_fallback(async |method: axum::http::Method, uri: axum::http::Uri| {
            let message = format!("{method} is not what can be done with {}", uri.path());
            failure(&Status::failure(405, "MethodNotAllowed", message))
        })
}

async fn list(State(api): State<Api>, Extension(client): Extension<Client>, headers: HeaderMap) -> Response {
    let token = match api.tokens.authenticate(&headers).await {
        Ok(token) => token,
        Err(status) => return failure(&status),
    };
    let _authenticated = client.stay.authenticated();
    if matches!(token.grant, Grant::Agent { .. }) {
        return failure(&Status::forbidden("an agent's token does not list clusters"));
    }
    let clusters = api.clusters.all().iter().filter_map(|cluster| view(cluster, &token)).collect();
    Json(ClusterList { clusters }).into_response()
}

fn view(cluster: &Cluster, token: &TokenRecord) -> Option<ClusterView> {
    let record = cluster.record().clone();
    if !token.may_reach(&record.name) {
        return None;
    }
    let Told { heartbeat, config } = cluster.told();
    let (links, agents) = (cluster.live_links(), cluster.agents());
    let mut agent_versions: Vec<_> = agents.iter().map(|agent| agent.agent_version.clone()).collect();
    agent_versions.sort();
    agent_versions.dedup();
    Some(ClusterView {
        id: record.id.to_string(),
        name: record.name,
        status: if agents.is_empty() { "disconnected" } else { "connected" },
        links: links.len(),
        protocol: cluster.protocol(),
        unreachable: (!cluster.is_served()).then(|| cluster.why_unreachable()),
        agent_id: record.agent_id.map(|id| id.to_string()),
        agent_versions,
        last_seen: cluster.last_seen(),
        heartbeat,
        config,
    })
}

fn failure(status: &Status) -> Response {
    status.to_response(false).map(Body::from)
}
