//! Links of agents that speak only the published protocol: requests go as messages.
//!
//! ```text
//!  proxy ── request() ──► proxy_request, chunks, end ──► Link::send_bulk      agent
//!    ▲                                                                          │
//!    └── Ticket ◄── Exchange (bounded) ◄── Table, by id ◄── reply(), binary() ◄─┘
//! ```
//!
//! The link's reader finds the exchange that a message is of, leaves it there and goes on: it waits for nobody. What waits
//! there for a slow client is bounded for each exchange and for all of a process ([`mux::Budget`]); above that the exchange is
//! broken, because this protocol cannot make an agent wait.
//!
//! Such an agent has no word for a user. What it does at the API server it does with the ServiceAccount token that it sent
//! when it registered, and the user is impersonated: that ServiceAccount needs the verb `impersonate` on users and groups.

mod answer;
mod bridged;
mod channels;
mod exchange;
mod message;
mod request;
mod socket;
mod table;
#[cfg(test)]
mod tests;
mod tunnel;
mod unpack;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use mux::Budget;
use protocol::message::proxied::{ProxyCommand, ProxyReply};
use protocol::{Envelope, RequestId, Secret, Status, Target, User};
use tokio::task::JoinSet;

pub use answer::Body;
pub use bridged::Bridged;
pub use tunnel::{Client, NoTunnel};

use self::exchange::{Broken, Kind, Ticket};
use self::request::Recipient;
use self::table::{NoPlace, Table};
use crate::metrics::Metrics;
use crate::options;
use crate::site::RequestBody;

/// What an agent did that sent no token, and what to do about it.
pub const NO_TOKEN: &str = "sent no k8s_service_token when it registered, without which nothing can be asked of the API \
                            server; give its pod a ServiceAccount token and restart it, or update it";

/// A link over which requests go as messages.
#[derive(Debug)]
pub struct OlderLink {
    shared: Arc<Shared>,
    #[expect(dead_code, reason = "owned, not used: tells the agent of exchanges that nobody waits for any more")]
    cancelling: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    link: mux::Link,
    table: Table,
    /// The agent's ServiceAccount token, as of its last registration.
    token: RwLock<Option<Secret>>,
    metrics: Arc<Metrics>,
    options: options::Links,
}

impl OlderLink {
    pub fn new(
        link: mux::Link,
        token: Option<Secret>,
        budget: &Arc<Budget>,
        metrics: &Arc<Metrics>,
        options: &options::Links,
    ) -> Self {
        link.expect_bulk();
        let shared = Arc::new(Shared {
            table: Table::new(options.max_streams, options.message_unread, budget, metrics),
            link,
            token: RwLock::new(token),
            metrics: Arc::clone(metrics),
            options: options.clone(),
        });
        let mut cancelling = JoinSet::new();
        let cancels = Arc::clone(&shared);
        cancelling.spawn(async move { cancels.cancel_all().await });
        Self { shared, cancelling }
    }

    /// The agent has registered again.
    pub fn replace_token(&self, token: Option<Secret>) {
        *self.shared.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Whether the agent sent a token with which requests can be made.
    pub fn has_token(&self) -> bool {
        self.shared.authorization().is_some()
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.shared.table.is_idle()
    }

    /// The link has ended: so has everything on it.
    pub fn end(&self) {
        self.shared.table.end();
    }

    /// Takes what the agent says of an exchange to whoever waits for it. What nobody waits for any more is counted.
    pub fn reply(&self, request_id: Option<&RequestId>, reply: ProxyReply) {
        message::take(&self.shared, request_id, reply);
    }

    /// A binary message, which is a whole answer before yamux. False: it is none, and does not say which it was to be.
    pub fn binary(&self, frame: &Bytes) -> bool {
        message::take_binary(&self.shared, frame)
    }

    /// Breaks the exchange that a message with an unusable payload is of. False: there is no telling which.
    pub fn malformed(&self, text: &str, error: &protocol::ParseError) -> bool {
        let protocol::ParseError::Payload { kind, .. } = error else { return false };
        let is_of_an_exchange = kind.starts_with("proxy_") || *kind == "backpressure";
        let id = Envelope::parse(text).ok().and_then(|envelope| envelope.request_id());
        let (true, Some(id)) = (is_of_an_exchange, id) else { return false };
        message::take_broken(&self.shared, &id, Broken::malformed(error));
        true
    }

    /// Answers `request` from the cluster.
    pub async fn request(
        &self,
        cluster: &str,
        request: Request<RequestBody>,
        user: &User,
    ) -> Result<Response<Body>, Box<Status>> {
        request::send(&self.shared, cluster, request, Recipient::ApiServer(user)).await
    }

    /// Answers `request` from a Service of the cluster.
    pub async fn service_request(
        &self,
        cluster: &str,
        request: Request<RequestBody>,
        target: &Target,
    ) -> Result<Response<Body>, Box<Status>> {
        request::send(&self.shared, cluster, request, Recipient::Service(target)).await
    }

    /// Makes a WebSocket of `request`: what to answer, and its other half.
    pub async fn websocket(
        &self,
        cluster: &str,
        request: &Request<RequestBody>,
        user: &User,
    ) -> Result<(Response<()>, Bridged), Box<Status>> {
        socket::open(&self.shared, cluster, request, user).await
    }

    /// A connection of a client to the port of a Service.
    pub async fn tcp(&self, client: &Client<'_>) -> Result<Bridged, NoTunnel> {
        tunnel::tcp(&self.shared, client).await
    }

    /// A client's datagrams with the port of a Service, each behind its length.
    pub fn udp(&self, client: &Client<'_>) -> Result<Bridged, NoTunnel> {
        tunnel::udp(&self.shared, client)
    }
}

impl Shared {
    /// As a header's value.
    fn authorization(&self) -> Option<HeaderValue> {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        let token = token.as_ref().map(|token| token.expose().trim()).filter(|token| !token.is_empty())?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// A place for an exchange.
    fn begin(self: &Arc<Self>, kind: Kind) -> Result<Ticket, NoPlace> {
        Ok(Ticket::new(Arc::clone(self), self.table.begin(kind)?))
    }

    async fn send(&self, id: &str, command: &ProxyCommand) -> Result<(), mux::Closed> {
        self.link.send_bulk(command.encode(Some(id))).await
    }

    /// Tells the agent of exchanges that nobody waits for any more, to the end of the link.
    async fn cancel_all(&self) {
        while let Some((id, kind)) = self.table.cancelled().await {
            if let Some(command) = kind.cancel(&id)
                && self.send(&id, &command).await.is_err()
            {
                return;
            }
        }
    }

    fn late(&self) {
        self.metrics.late_messages.fetch_add(1, Relaxed);
    }
}
