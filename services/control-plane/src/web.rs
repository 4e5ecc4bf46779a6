//! Web apps of the clusters, for whoever asks for their hostnames: no token, no user.
//!
//! ```text
//!   agent ── REST (api) ──► Routes (registry: a file for each cluster) ─► table: hostname, path
//!                                                                           │
//!   browser ── HTTP or HTTPS (certificates by SNI) ──► Web ── `http` stream, or older ones ──► agent ──► Service
//! ```
//!
//! HTTP/1.1 and HTTP/2 towards the client, HTTP/1.1 towards the Service, so gRPC does not get through: it needs HTTP/2 to
//! its end.

pub mod api;
mod certificates;
mod forwarded;
mod metrics;
mod network;
mod page;
mod registry;
mod table;
mod url;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context as _;
use bytes::Bytes;
use duplex::Socket;
use exchange::{BodyError, Malformed, Observed, Observer, Reply, UpgradeSlot, Upgraded};
use http::header::{self, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Either, Full, Limited};
use protocol::config::Transport;
use protocol::{Status, StreamKind, Tunnel, TunnelId, hop, identity};
use runtime::error_text;
use runtime::tcp::reset_when_dropped;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

pub use certificates::Certificates;
pub use metrics::WebMetrics;
pub use network::Network;
pub use page::wants_html;
pub use registry::Routes;
pub use url::Public;

use self::forwarded::Sender;
use self::metrics::Open;
use self::page::Failure;
use self::table::{Entry, Host, Passthrough};
use crate::clusters::{Carrier, Cluster, Clusters, Limits, Place};
use crate::dispatch::{self, Destination, StreamTrace};
use crate::gateway::{reach, tcp};
use crate::metrics::Metrics;
use crate::path::has_dot_segment;
use crate::reply::ClusterBody;
use crate::session::Session;
use crate::site::{Client, RequestBody, Room, Site, Stream};
use crate::stay::Authenticated;

/// What agents of the published protocol are told as the id of a tunnel.
const PASSTHROUGH: &str = "web-passthrough";
/// What is read of the reason why there is no answer.
const LONGEST_REASON: usize = 8 * 1024;
/// An agent that is away is back as soon as its link is.
const AWAY: u32 = 5;

/// What answers on the gateway's listeners.
#[derive(Debug)]
pub struct Web {
    pub routes: Arc<Routes>,
    pub clusters: Arc<Clusters>,
    /// Of the visitors of each cluster.
    pub limits: Limits,
    pub public: Public,
    /// Visitors are told why an app gives no answer.
    pub explains: bool,
    pub trusted: Vec<Network>,
    pub metrics: Arc<WebMetrics>,
    /// Where requests that are refused because of their cluster's limits count.
    pub limited: Arc<Metrics>,
}

/// A page of ours, or what the app answers.
type Answer = Either<Full<Bytes>, ClusterBody>;

/// What lasts as long as a response does.
#[derive(Debug)]
pub struct Watch {
    open: Open,
    place: Option<Place>,
    _stay: Authenticated,
}

impl Observer for Watch {
    fn sent(&mut self, bytes: usize) {
        self.open.sent(bytes);
    }

    fn cut(&mut self, error: &BodyError) {
        tracing::debug!(%error, "an app's response was cut off on its way from the cluster");
    }
}

impl Site for Web {
    type Body = Observed<Answer, Watch>;
    type Upgrade = Session;

    const REFUSAL: fn(Malformed) -> Response<Vec<u8>> = exchange::Settings::PLAIN;

    /// Anybody may come.
    const ROOM: Room =
        Room { head: 32 * 1024, window: 256 * 1024, windows: 512 * 1024, send_buffer: 16 * 1024, streams: 100 };

    async fn answer(
        &self,
        request: Request<RequestBody>,
        client: &Client,
        slot: Option<&UpgradeSlot<Session>>,
    ) -> Response<Self::Body> {
        let mut watch = Watch { open: self.metrics.request(), place: None, _stay: client.stay.authenticated() };
        let html = wants_html(request.headers());
        let response = match self.serve(request, client, slot, &mut watch).await {
            Ok(response) => response,
            Err(failure) => failure.to_response(html).map(Either::Left),
        };
        watch.open.answered(response.status());
        response.map(|body| Observed::new(body, watch))
    }

    async fn upgraded(&self, client: Upgraded<Socket<Stream>>, session: Session, cut: &CancellationToken) {
        session.run(client, cut).await;
    }

    fn passes_through(&self) -> bool {
        self.routes.passes_through()
    }

    async fn pass_through(&self, tcp: TcpStream, name: &str) -> Option<TcpStream> {
        let host = self.routes.host(name);
        match host.as_ref().and_then(|host| Some((host, host.passthrough.as_ref()?))) {
            Some((host, to)) => {
                self.carry(tcp, host, to).await;
                None
            }
            None => Some(tcp),
        }
    }

    fn connection(&self) -> impl Send + 'static {
        self.metrics.connection()
    }

    fn handshake_failed(&self) {
        self.metrics.failed_handshakes.fetch_add(1, Relaxed);
    }
}

impl Web {
    async fn serve(
        &self,
        request: Request<RequestBody>,
        client: &Client,
        slot: Option<&UpgradeSlot<Session>>,
        watch: &mut Watch,
    ) -> Result<Response<Answer>, Failure> {
        let authority = authority(&request)?;
        let name = hostname(&authority);
        let (host, entry) = self.find(&request, &name)?;
        let sender = Sender {
            address: client.address.map(|address| address.ip()),
            tls: client.tls,
            trusted: client.address.is_some_and(|peer| self.trusted.iter().any(|network| network.holds(peer.ip()))),
            authority: &authority,
        };
        if host.passthrough.is_some() && (client.tls || sender.is_secure(request.headers())) {
            let text = format!("{name} is not served on this connection. Make another one for it.");
            return Err(Failure::new(StatusCode::MISDIRECTED_REQUEST, text));
        }
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        if entry.tls
            && !sender.is_secure(request.headers())
            && let Some(location) = self.public.redirect(&name, target)
        {
            return redirect(&location);
        }
        let away = || {
            Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{name} cannot be reached now: its cluster is not connected. Try again soon."),
            )
            .again_in(AWAY)
        };
        let cluster = self.clusters.find(host.cluster.as_str()).ok_or_else(away)?;
        watch.place = Some(cluster.visit(&self.limits).map_err(|why| {
            self.limited.limited(why);
            let text = format!("{name} is asked too much at the moment. Try again soon.");
            Failure::new(StatusCode::TOO_MANY_REQUESTS, text).again_in(1)
        })?);
        let link = cluster.pick(&[]).ok_or_else(|| {
            tracing::debug!(host = name, reason = cluster.why_unreachable(), "an app cannot be reached");
            away()
        })?;
        let request = prepare(request, &sender)?;
        let response = match &link.carrier {
            Carrier::Messages(older) if !link.link.carries_streams() => {
                let cluster = cluster.record().name.clone();
                let sent = older.service_request(&cluster, request, &entry.target).await;
                sent.map_err(|status| {
                    tracing::info!(host = name, service = %entry.target, reason = status.message, "an app gives no answer");
                    self.unanswered(&name, status.http_status(), &status.message)
                })?
                .map(Either::Right)
            }
            Carrier::Streams(_) | Carrier::Messages(_) => {
                let to = Destination::Service(&entry.target);
                match dispatch::send(&cluster, &link, to, request, StreamTrace::default()).await {
                    Ok((Reply::Response(response), _)) => response.map(Either::Left),
                    Ok((Reply::Upgraded(response, upgraded), _)) => {
                        let websocket = hop::upgrades_to_websocket(response.headers());
                        let place = watch.place.take();
                        if let Some(slot) = slot {
                            slot.put(Session { cluster: upgraded, token: None, websocket, place });
                        }
                        return Ok(response.map(|()| Either::Left(Full::default())));
                    }
                    Err(error) => {
                        let text = error_text(&error);
                        tracing::warn!(host = name, service = %entry.target, error = text, "an app gives no answer");
                        let reason = "the connection to it broke, or there is none";
                        return Err(self.unanswered(&name, StatusCode::BAD_GATEWAY, reason));
                    }
                }
            }
        };
        answered(&name, &cluster, &entry, response)
            .await
            .map_err(|(status, reason)| self.unanswered(&name, status, &reason))
    }

    /// The reason names what is inside the cluster, and is in the log.
    fn unanswered(&self, name: &str, status: StatusCode, reason: &str) -> Failure {
        let shown = if self.explains {
            format!("{name} gives no answer: {reason}")
        } else {
            format!("{name} gives no answer.")
        };
        Failure::new(status, shown)
    }

    /// A connection that is passed through, to its end.
    async fn carry(&self, client: TcpStream, host: &Host, to: &Passthrough) {
        let Ok(address) = client.peer_addr() else { return };
        // Until it has ended as it should.
        reset_when_dropped(&client, true);
        let ended = async {
            let cluster = self.clusters.find(host.cluster.as_str()).context("its cluster is not known")?;
            let _place = cluster.visit(&self.limits).inspect_err(|why| self.limited.limited(*why))?;
            let tunnel = Tunnel::new(TunnelId::new(PASSTHROUGH)?, Transport::Tcp, &to.target);
            let mut way = reach::open(&cluster, StreamKind::Tcp, &tunnel, &to.target, address).await?;
            tcp::name_client(&mut way, to.proxy_protocol, &client, address).await?;
            anyhow::Ok(tcp::carry(client, way, |relayed| self.metrics.passed(relayed)).await?)
        };
        if let Err(error) = ended.await {
            let error = format!("{error:#}");
            tracing::info!(host = host.hostname, service = %to.target, error, "a connection that is passed through breaks off");
        }
    }

    /// The route that the request takes.
    fn find(&self, request: &Request<RequestBody>, name: &str) -> Result<(Arc<Host>, Arc<Entry>), Failure> {
        if request.method() == Method::CONNECT {
            return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this is no proxy: CONNECT leads nowhere"));
        }
        let unknown = |what: String| Failure::new(StatusCode::NOT_FOUND, what);
        let host = self.routes.host(name).ok_or_else(|| unknown(format!("There is no app at {name}.")))?;
        let path = match request.uri().path() {
            // OPTIONS of the whole server.
            "*" => "/",
            path => path,
        };
        if has_dot_segment(path) {
            let text = "The path has a segment . or .. in it, which may lead past the route that it takes.";
            return Err(Failure::new(StatusCode::BAD_REQUEST, text));
        }
        let entry = host.entry(path).ok_or_else(|| {
            let shown: String = path.chars().take(200).collect();
            unknown(format!("There is nothing at {shown} of {name}."))
        })?;
        let entry = Arc::clone(entry);
        Ok((host, entry))
    }
}

/// The response as it goes on; or why there is none, where the agent speaks for the Service.
async fn answered(
    name: &str,
    cluster: &Cluster,
    entry: &Entry,
    mut response: Response<ClusterBody>,
) -> Result<Response<Answer>, (StatusCode, String)> {
    hop::strip_hop_by_hop(response.headers_mut());
    if response.headers_mut().remove(&identity::NO_ANSWER).is_none() {
        return Ok(response.map(Either::Right));
    }
    let status = if response.status().is_server_error() { StatusCode::BAD_GATEWAY } else { response.status() };
    let body = Limited::new(response.into_body(), LONGEST_REASON).collect().await;
    let reason = body.map_or_else(
        |_| "its agent does not say why".to_owned(),
        |body| {
            let bytes = body.to_bytes();
            let message = serde_json::from_slice::<Status>(&bytes).map(|status| status.message);
            message.unwrap_or_else(|_| String::from_utf8_lossy(&bytes).trim().to_owned())
        },
    );
    let cluster = cluster.record().name.clone();
    tracing::info!(host = name, cluster, service = %entry.target, reason, "an app gives no answer");
    Err((status, reason))
}

/// Whom the request is for, as it says it.
fn authority(request: &Request<RequestBody>) -> Result<Authority, Failure> {
    let said = request.uri().authority().cloned().or_else(|| {
        let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
        Authority::try_from(host).ok()
    });
    // A user's name has no place in it.
    said.filter(|authority| !authority.as_str().contains('@'))
        .ok_or_else(|| Failure::new(StatusCode::BAD_REQUEST, "the request does not say for which host it is"))
}

/// As in the routes: without a port, in lower case.
fn hostname(authority: &Authority) -> String {
    let host = authority.host();
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn redirect(location: &str) -> Result<Response<Answer>, Failure> {
    let location = HeaderValue::try_from(location)
        .map_err(|_| Failure::new(StatusCode::BAD_REQUEST, "there is no HTTPS URL for this request"))?;
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// Makes the request one between our own hops.
fn prepare(request: Request<RequestBody>, sender: &Sender<'_>) -> Result<Request<RequestBody>, Failure> {
    let (mut head, body) = request.into_parts();
    let headers = &mut head.headers;
    identity::strip_ours(headers);
    headers.remove(header::EXPECT);
    hop::forward_request(headers, !body.is_end_stream());
    join_cookies(headers);
    sender.write(headers);
    let host = HeaderValue::try_from(sender.authority.as_str())
        .map_err(|_| Failure::new(StatusCode::BAD_REQUEST, "the request's host is none"))?;
    headers.insert(header::HOST, host);
    head.uri = head.uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
    head.version = Version::HTTP_11;
    Ok(Request::from_parts(head, body))
}

/// HTTP/2 allows several, HTTP/1.1 one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if let (Some(_), Some(_)) = (cookies.next(), cookies.next()) {
        let all: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::try_from(all.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
}
