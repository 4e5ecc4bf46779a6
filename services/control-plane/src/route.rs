//! Which part answers which request.

use std::convert::Infallible;
use std::sync::Arc;

use exchange::UpgradeSlot;
use http::{Request, Response, header};
use protocol::{Status, endpoint, hop};
use tower::ServiceExt as _;

use crate::auth::{AgentToken, AgentTokens, Tokens};
use crate::metrics::Metrics;
use crate::older;
use crate::proxy::{Proxy, RequestBody, Target};
use crate::reply::{ResponseBody, Watch};
use crate::session::Session;
use crate::stay::Stay;
use crate::websocket;

/// What a connection becomes after a 101.
#[derive(Debug)]
pub enum Upgrade {
    /// A user's session, over a stream.
    Session(Session),
    /// The same, as messages.
    Messages(Session<older::Bridged>),
    /// An agent's link.
    Agent { token: AgentToken, compressed: bool },
}

/// In the extensions of a request whose connection began with a client certificate that is trusted.
#[derive(Clone, Copy, Debug)]
pub struct Certified;

#[derive(Debug)]
pub struct Router {
    pub tokens: Arc<Tokens>,
    pub agent_tokens: Arc<AgentTokens>,
    pub proxy: Proxy,
    pub rest: axum::Router,
    pub metrics: Arc<Metrics>,
    /// Agents need a certificate besides their token.
    pub certified_agents: bool,
    /// Agents' messages are compressed, where they ask for it.
    pub compression: bool,
}

impl Router {
    /// `slot` is absent on HTTP/2, which has no upgrades.
    pub async fn route(
        &self,
        mut request: Request<RequestBody>,
        stay: &Arc<Stay>,
        slot: Option<&UpgradeSlot<Upgrade>>,
    ) -> Response<ResponseBody> {
        let mut watch = Watch::begin(&self.metrics);
        if request.uri().path() == endpoint::AGENT_WS {
            return match self.accept_agent(&request, slot).await {
                Ok(response) => watch.ours(response),
                Err(status) => watch.status(&status, request.uri().path()),
            };
        }
        if Target::of(request.uri()).is_none() {
            request.extensions_mut().insert(Arc::clone(stay));
            let answer: Result<_, Infallible> = self.rest.clone().oneshot(request).await;
            return match answer {
                Ok(response) => watch.ours(response),
                Err(never) => match never {},
            };
        }
        let token = match self.tokens.authenticate(request.headers()).await {
            Ok(token) => token,
            Err(status) => return watch.status(&status, request.uri().path()),
        };
        watch.authenticated = Some(stay.authenticated());
        if slot.is_none() && hop::upgrade_type(request.headers()).is_some() {
            return watch.status(&Status::bad_request("an upgrade needs HTTP/1.1"), request.uri().path());
        }
        let upgraded = |session| {
            if let Some(slot) = slot {
                slot.put(session);
            }
        };
        self.proxy.forward(request, &token, watch, upgraded).await
    }

    /// Leaves the token in the slot: the link is served once the connection has become a WebSocket.
    async fn accept_agent(
        &self,
        request: &Request<RequestBody>,
        slot: Option<&UpgradeSlot<Upgrade>>,
    ) -> Result<Response<axum::body::Body>, Box<Status>> {
        let token = self.agent_tokens.authenticate(request.headers()).await?;
        if self.certified_agents && request.extensions().get::<Certified>().is_none() {
            tracing::warn!(
                token = token.record.id,
                "an agent is refused: it shows no client certificate (tls.client_ca_file)"
            );
            return Err(Box::new(Status::forbidden(
                "this agent shows no client certificate, and this control plane asks for one: set pipeops.tls.cert_file and key_file",
            )));
        }
        let (Some(mut response), Some(slot)) = (websocket::accept(request), slot) else {
            return Err(Box::new(Status::bad_request("agents connect by WebSocket version 13 over HTTP/1.1")));
        };
        let compression = self.compression.then(|| deflate::accept(request.headers())).flatten();
        let compressed = compression.is_some();
        if let Some(answer) = compression {
            response.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, answer);
        }
        slot.put(Upgrade::Agent { token, compressed });
        Ok(response.map(|()| axum::body::Body::empty()))
    }
}
