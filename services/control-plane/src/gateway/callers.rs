use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use protocol::Status;
use serde::de::DeserializeOwned;

use crate::auth::{AgentTokens, Grant, TokenRecord, Tokens};
use crate::clusters::{Cluster, Clusters};
use crate::site::Client;

/// What an endpoint answers, or why not.
pub type Answer<T> = Result<T, Box<Status>>;

/// Who asks for tunnels and routes: agents for those of their cluster, users for those of the clusters they reach.
#[derive(Clone, Debug)]
pub struct Callers {
    pub tokens: Arc<Tokens>,
    pub agent_tokens: Arc<AgentTokens>,
    pub clusters: Arc<Clusters>,
    /// Agents need a certificate besides their token.
    pub certified_agents: bool,
}

/// Whoever may look.
#[derive(Debug)]
pub enum Reader {
    Agent(Arc<Cluster>),
    User(Arc<TokenRecord>),
}

impl Callers {
    /// The cluster of the agent that asks.
    pub async fn agent(&self, headers: &HeaderMap, client: &Client) -> Answer<Arc<Cluster>> {
        let token = self.agent_tokens.authenticate(headers).await?;
        if self.certified_agents && !client.certified {
            return Err(Box::new(Status::forbidden(
                "this agent shows no client certificate, and this control plane asks for one: set pipeops.tls.cert_file and key_file",
            )));
        }
        let Grant::Agent { cluster: own } = &token.record.grant else {
            return Err(Box::new(Status::forbidden("this is for agents, with an agent's token")));
        };
        let found = self.clusters.find(own).ok_or_else(|| {
            Box::new(Status::not_found(format!("cluster {own:?} has not registered yet: its agent connects first")))
        })?;
        let current = found.record().agent_id.clone();
        if token.session.is_some_and(|session| current.as_ref() != Some(&session.agent)) {
            return Err(Box::new(Status::forbidden("another agent has taken this cluster over")));
        }
        Ok(found)
    }

    /// The same, where it has to be the one that it asks for, by name or by id.
    pub async fn agent_of(&self, cluster: &str, headers: &HeaderMap, client: &Client) -> Answer<Arc<Cluster>> {
        let found = self.agent(headers, client).await?;
        let is_own = {
            let record = found.record();
            cluster == record.name || cluster == record.id.as_str()
        };
        if is_own { Ok(found) } else { Err(not_its_agent(cluster)) }
    }

    /// An agent, or a user.
    pub async fn reader(&self, headers: &HeaderMap, client: &Client) -> Answer<Reader> {
        let refused = match self.agent(headers, client).await {
            Ok(cluster) => return Ok(Reader::Agent(cluster)),
            Err(refused) => refused,
        };
        match self.tokens.authenticate(headers).await {
            Ok(token) if !matches!(token.grant, Grant::Agent { .. }) => Ok(Reader::User(token)),
            _ => Err(refused),
        }
    }

    /// The cluster that is asked for, if whoever asks may look at it.
    pub async fn readable(&self, cluster: &str, headers: &HeaderMap, client: &Client) -> Answer<Arc<Cluster>> {
        match self.reader(headers, client).await? {
            Reader::User(token) => self.clusters.reach(&token, cluster),
            Reader::Agent(_) => self.agent_of(cluster, headers, client).await,
        }
    }
}

pub fn not_its_agent(cluster: &str) -> Box<Status> {
    Box::new(Status::forbidden(format!("this token is not that of the agent of cluster {cluster:?}")))
}

pub fn read<T: DeserializeOwned>(body: &[u8]) -> Answer<T> {
    serde_json::from_slice(body)
        .map_err(|error| Box::new(Status::bad_request(format!("the body is not usable: {error}"))))
}

pub fn respond<T: IntoResponse>(answer: Answer<T>) -> Response {
    answer.map_or_else(|status| status.to_response(false).map(Body::from), IntoResponse::into_response)
}
