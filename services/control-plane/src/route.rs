//! Which part answers which request.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use deflate::Deflated;
use duplex::Socket;
use exchange::{Malformed, UpgradeSlot, Upgraded};
use http::{HeaderValue, Request, Response, header};
use mux::Timed;
use protocol::{Status, endpoint, hop};
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::agent::Agents;
use crate::auth::{self, AgentToken, AgentTokens, Tokens};
use crate::metrics::Metrics;
use crate::older;
use crate::proxy::{Proxy, Target};
use crate::reply::{self, ResponseBody, Watch};
use crate::session::{FAREWELL, Session};
use crate::site::{Client, RequestBody, Room, Site, Stream};
use crate::subpath::{self, SubPath};
use crate::web::wants_html;
use crate::websocket;

/// Has a browser ask its user, for whom the token is the password.
const BASIC: HeaderValue = HeaderValue::from_static(r#"Basic realm="token as password", charset="UTF-8""#);

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

#[derive(Debug)]
pub struct Router {
    pub tokens: Arc<Tokens>,
    pub agent_tokens: Arc<AgentTokens>,
    pub agents: Arc<Agents>,
    pub proxy: Proxy,
    pub rest: axum::Router,
    pub metrics: Arc<Metrics>,
    /// Agents need a certificate besides their token.
    pub certified_agents: bool,
    /// Agents' messages are compressed, where they ask for it.
    pub compression: bool,
}

impl Site for Router {
    type Body = ResponseBody;
    type Upgrade = Upgrade;

    const REFUSAL: fn(Malformed) -> Response<Vec<u8>> = reply::refusal;

    /// Clients open another connection for more streams. The API server itself allows 100.
    const ROOM: Room =
        Room { head: 128 * 1024, window: 1 << 20, windows: 4 << 20, send_buffer: 64 * 1024, streams: 128 };

    async fn answer(
        &self,
        mut request: Request<RequestBody>,
        client: &Client,
        slot: Option<&UpgradeSlot<Upgrade>>,
    ) -> Response<ResponseBody> {
        let stay = &client.stay;
        let mut watch = Watch::begin(&self.metrics);
        if request.uri().path() == endpoint::AGENT_WS {
            return match self.accept_agent(&request, client, slot).await {
                Ok(response) => watch.ours(response),
                Err(status) => watch.status(&status, request.uri().path()),
            };
        }
        if Target::of(request.uri()).is_none() {
            request.extensions_mut().insert(client.clone());
            let answer: Result<_, Infallible> = self.rest.clone().oneshot(request).await;
            return match answer {
                Ok(response) => watch.ours(response),
                Err(never) => match never {},
            };
        }
        let for_browsers = SubPath::of(request.uri()).is_some();
        if for_browsers && let Some(bearer) = auth::bearer_of_basic(request.headers()) {
            if !subpath::is_own(&request) {
                let status = Status::forbidden(
                    "a password of a browser is good for pages and for what they ask of their own host: this comes from another host's page, or its path may lead elsewhere",
                );
                return watch.status(&status, request.uri().path());
            }
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
        let token = match self.tokens.authenticate(request.headers()).await {
            Ok(token) => token,
            Err(status) => {
                let asks = for_browsers && wants_html(request.headers());
                let mut response = watch.status(&status, request.uri().path());
                if asks {
                    response.headers_mut().insert(header::WWW_AUTHENTICATE, BASIC);
                }
                return response;
            }
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

    async fn upgraded(&self, client: Upgraded<Socket<Stream>>, upgrade: Upgrade, cut: &CancellationToken) {
        match upgrade {
            Upgrade::Session(session) => session.run(client, cut).await,
            Upgrade::Messages(session) => session.run(client, cut).await,
            Upgrade::Agent { token, compressed } => {
                // It ends by itself once no session needs it any more.
                let sessions_end = async {
                    cut.cancelled().await;
                    sleep(FAREWELL).await;
                };
                tokio::select! {
                    () = Box::pin(self.link(client, token, compressed)) => {}
                    () = sessions_end => {}
                }
            }
        }
    }

    fn connection(&self) -> impl Send + 'static {
        self.metrics.connection()
    }

    fn handshake_failed(&self) {
        self.metrics.failed_handshakes.fetch_add(1, Relaxed);
    }
}

impl Router {
    async fn link(&self, client: Upgraded<Socket<Stream>>, token: AgentToken, compressed: bool) {
        let config = self.agents.config();
        let (io, ahead) = (Timed::new(client.io.into_inner()), client.read_ahead);
        let (io, ahead) = if compressed {
            (Deflated::accepted(io, ahead, config.max_message), Vec::new())
        } else {
            (Deflated::plain(io), ahead.into())
        };
        let socket = WebSocketStream::from_partially_read(io, ahead, Role::Server, Some(config.websocket())).await;
        self.agents.serve(socket, token, compressed).await;
    }

    /// Leaves the token in the slot: the link is served once the connection has become a WebSocket.
    async fn accept_agent(
        &self,
        request: &Request<RequestBody>,
        client: &Client,
        slot: Option<&UpgradeSlot<Upgrade>>,
    ) -> Result<Response<axum::body::Body>, Box<Status>> {
        let token = self.agent_tokens.authenticate(request.headers()).await?;
        if self.certified_agents && !client.certified {
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
