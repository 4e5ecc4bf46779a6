//! The path of a user's request to a cluster: who may go where, and a stream to go on. What the request does is for
//! the cluster to judge.

use std::sync::Arc;

use exchange::{Reply, Upgraded};
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use http_body::Body as _;
use http_body_util::Either;
use mux::MuxStream;
use protocol::{Status, TraceParent, hop, identity};
use runtime::{SpanKind, Tracer};

use crate::auth::{Grant, TokenRecord};
use crate::clusters::{AgentLink, Carrier, Cluster, Clusters, Limits, Place};
use crate::dispatch::{self, Destination, NoAnswer, StreamTrace};
use crate::events::Events;
use crate::metrics::Metrics;
use crate::older::{self, OlderLink};
use crate::reply::{ClusterBody, ResponseBody, Watch};
use crate::revocable::Revocable;
use crate::route::Upgrade;
use crate::session::Session;
use crate::site::RequestBody;
use crate::subpath::{Page, SubPath};

const TRACEPARENT: header::HeaderName = header::HeaderName::from_static("traceparent");

#[derive(Debug)]
pub struct Proxy {
    pub clusters: Arc<Clusters>,
    pub tracer: Tracer,
    /// Of each cluster.
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
}

/// What a cluster answers, over whichever kind of link.
enum Answer {
    Response(Response<ClusterBody>),
    /// A 101, and what the session goes on with.
    Stream(Response<()>, Upgraded<MuxStream>),
    Messages(Response<()>, older::Bridged),
}

/// A request under way: its answer, the link it came over, and its place among the cluster's requests.
struct Answered {
    answer: Answer,
    link: Arc<AgentLink>,
    place: Place,
}

/// A request for a cluster, its path already split.
#[derive(Debug)]
pub struct Target<'a> {
    pub cluster: &'a str,
    /// Path and query as the API server gets them.
    pub rest: Uri,
}

impl<'a> Target<'a> {
    /// None: not a path of the proxy.
    pub fn of(uri: &'a Uri) -> Option<Self> {
        let (cluster, rest) = protocol::endpoint::split_proxy_path(uri.path())?;
        let rest = match uri.query() {
            Some(query) => PathAndQuery::try_from(format!("{rest}?{query}")),
            None => PathAndQuery::try_from(rest),
        };
        Some(Self { cluster, rest: Uri::from(rest.ok()?) })
    }
}

/// The trace that a request belongs to.
#[derive(Clone, Copy, Debug)]
struct Trace {
    /// What later hops are told.
    context: Option<TraceParent>,
    recorded: bool,
}

impl Trace {
    /// For the header of the request's stream. One that later requests share says at most that nothing is recorded, so
    /// that no hop begins a trace of its own with it.
    fn of_stream(self) -> Option<TraceParent> {
        self.context.filter(|context| self.recorded || !context.sampled)
    }
}

impl Proxy {
    /// Answers `request` from the cluster. `upgraded` is given what a session goes on with.
    pub async fn forward(
        &self,
        mut request: Request<RequestBody>,
        token: &Arc<TokenRecord>,
        mut watch: Watch,
        upgraded: impl FnOnce(Upgrade),
    ) -> Response<ResponseBody> {
        let parent = TraceParent::from_headers(request.headers());
        let mut span = self.tracer.start("control-plane.request", SpanKind::Server, parent.as_ref());
        let trace = Trace { context: span.context(), recorded: span.is_recording() };
        if trace.recorded {
            span.set("http.request.method", request.method().as_str().to_owned());
            span.set("url.path", request.uri().path().to_owned());
            watch.span = Some(Box::new(span));
        }
        let uri = request.uri().clone();
        let app = SubPath::seen_by(&uri, request.headers());
        if app.is_some() {
            SubPath::prepare(request.headers_mut());
        }
        let outcome = token.revoked().run_until_cancelled(self.run(request, token, trace)).await;
        match outcome.unwrap_or_else(|| Err(Box::new(Status::unauthorized("the token was revoked meanwhile")))) {
            Ok(Answered { answer: Answer::Response(mut response), link, place }) => {
                watch.place = Some(place);
                hop::strip_hop_by_hop(response.headers_mut());
                let events = Events::of(&uri, response.headers());
                let rewriting = app.and_then(|app| app.rewrite(response.headers_mut()));
                let guarded =
                    |body| Revocable::new(Page::new(body, rewriting), Arc::clone(token)).watching(events, &link.ending);
                watch.proxied(response.map(guarded))
            }
            Ok(Answered { answer: Answer::Stream(response, cluster), place, .. }) => {
                let websocket = hop::upgrades_to_websocket(response.headers());
                upgraded(Upgrade::Session(Session {
                    cluster,
                    token: Some(Arc::clone(token)),
                    websocket,
                    place: Some(place),
                }));
                watch.ours(response.map(|()| axum::body::Body::empty()))
            }
            Ok(Answered { answer: Answer::Messages(response, cluster), place, .. }) => {
                let session = Session { cluster, token: Some(Arc::clone(token)), websocket: true, place: Some(place) };
                upgraded(Upgrade::Messages(session));
                watch.ours(response.map(|()| axum::body::Body::empty()))
            }
            Err(status) => watch.status(&status, uri.path()),
        }
    }

    async fn run(
        &self,
        request: Request<RequestBody>,
        token: &TokenRecord,
        trace: Trace,
    ) -> Result<Answered, Box<Status>> {
        let target = Target::of(request.uri())
            .ok_or_else(|| Box::new(Status::not_found(format!("there is nothing at {}", request.uri().path()))))?;
        let cluster = self.clusters.reach(token, target.cluster)?;
        let place = cluster.enter(&self.limits).map_err(|why| {
            self.metrics.limited(why);
            let name = &cluster.record().name;
            Box::new(Status::too_many_requests(format!("too much is asked of cluster {name:?}: {why}; try again soon")))
        })?;
        let rest = target.rest;
        let request = prepare(request, rest, token, trace)?;
        let link = cluster.pick(&[]).ok_or_else(|| Box::new(Status::unavailable(cluster.why_unreachable())))?;
        let (answer, link) = match &link.carrier {
            Carrier::Streams(_) => {
                let stream = StreamTrace { own: trace.recorded, traceparent: trace.of_stream() };
                let sent = dispatch::send(&cluster, &link, Destination::ApiServer, request, stream).await;
                let (reply, link) = sent.map_err(|error| no_answer(&cluster, error))?;
                let answer = match reply {
                    Reply::Response(response) => Answer::Response(response.map(Either::Left)),
                    Reply::Upgraded(response, upgraded) => Answer::Stream(response, upgraded),
                };
                (answer, link)
            }
            Carrier::Messages(older) => (send_older(&cluster, older, request, token).await?, link),
        };
        Ok(Answered { answer, link, place })
    }
}

/// Makes the request one between our own hops: nothing of the client's that is meant for us, or claims an identity.
fn prepare(
    request: Request<RequestBody>,
    rest: Uri,
    token: &TokenRecord,
    trace: Trace,
) -> Result<Request<RequestBody>, Box<Status>> {
    let (mut head, body) = request.into_parts();
    let headers = &mut head.headers;
    if headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Err(Box::new(Status::forbidden(
            "impersonation (kubectl --as) is not possible through the control plane: requests already run as the token's user",
        )));
    }
    identity::strip(headers);
    headers.remove(header::AUTHORIZATION);
    headers.remove(header::EXPECT);
    hop::forward_request(headers, !body.is_end_stream());
    for (name, value) in token.identity() {
        headers.append(name, value.clone());
    }
    if let Some(context) = trace.context {
        headers.insert(TRACEPARENT, context.to_header_value());
    }
    // HTTP/1.1 wants a host; the agent replaces it.
    headers.insert(header::HOST, HeaderValue::from_static("kubernetes"));
    head.uri = rest;
    head.version = http::Version::HTTP_11;
    Ok(Request::from_parts(head, body))
}

/// As messages.
async fn send_older(
    cluster: &Cluster,
    older: &OlderLink,
    request: Request<RequestBody>,
    token: &TokenRecord,
) -> Result<Answer, Box<Status>> {
    let Grant::User { user, .. } = &token.grant else {
        return Err(Box::new(Status::forbidden("an agent's token reaches no cluster")));
    };
    if !older.has_token() {
        return Err(Box::new(Status::unavailable(cluster.why_unreachable())));
    }
    let name = cluster.record().name.clone();
    if hop::upgrade_type(request.headers()).is_some() {
        let (response, socket) = older.websocket(&name, &request, user).await?;
        return Ok(Answer::Messages(response, socket));
    }
    let response = older.request(&name, request, user).await?;
    Ok(Answer::Response(response.map(Either::Right)))
}

/// What a user is told who gets no answer from that cluster.
fn no_answer(cluster: &Cluster, error: NoAnswer) -> Box<Status> {
    let name = cluster.record().name.clone();
    match error {
        NoAnswer::Open(error) => {
            Box::new(Status::unavailable(format!("cannot open a stream to cluster {name:?}: {error}")))
        }
        NoAnswer::Lost => Box::new(Status::unavailable(format!("the link to cluster {name:?} was lost"))),
        NoAnswer::Broken(error) => broken(&name, &error),
    }
}

fn broken(cluster: &str, error: &exchange::Error) -> Box<Status> {
    tracing::warn!(cluster, %error, "request got no answer from the cluster");
    Box::new(Status::bad_gateway(format!(
        "the connection to cluster {cluster:?} broke before it answered, and it is not known whether the request takes effect: {error}"
    )))
}
