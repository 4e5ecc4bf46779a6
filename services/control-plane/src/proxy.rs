//! The path of a user's request to a cluster: who may go where, and a stream to go on. What the request does is for
//! the cluster to judge.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exchange::{Pool, PoolError, PoolLimits, Reply, Upgraded};
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use http_body_util::{Either, Empty};
use hyper::body::{Body as _, Incoming};
use mux::MuxStream;
use protocol::{Status, StreamHeader, StreamId, TraceParent, hop, identity};
use runtime::{SpanKind, Tracer};
use tokio::io::AsyncWriteExt;

use crate::auth::TokenRecord;
use crate::clusters::{AgentLink, Cluster, Clusters};
use crate::reply::{ResponseBody, Watch};

pub type RequestBody = Either<Incoming, Empty<Bytes>>;

const TRACEPARENT: header::HeaderName = header::HeaderName::from_static("traceparent");

#[derive(Debug)]
pub struct Proxy {
    pub clusters: Arc<Clusters>,
    pub tracer: Tracer,
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
        // A part of a valid path is a valid path.
        Some(Self { cluster, rest: rest.map(Uri::from).unwrap_or_default() })
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
    /// Answers `request` from the cluster. For a session, `upgraded` is given the cluster's side of it.
    pub async fn forward(
        &self,
        request: Request<Incoming>,
        token: &TokenRecord,
        mut watch: Watch,
        upgraded: impl FnOnce(Upgraded<MuxStream>),
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
        match self.run(request, token, trace).await {
            Ok(Reply::Response(mut response)) => {
                hop::strip_hop_by_hop(response.headers_mut());
                watch.proxied(response)
            }
            Ok(Reply::Upgraded(response, stream)) => {
                upgraded(stream);
                watch.ours(response.map(|()| axum::body::Body::empty()))
            }
            Err(status) => watch.status(&status, uri.path()),
        }
    }

    async fn run(
        &self,
        request: Request<Incoming>,
        token: &TokenRecord,
        trace: Trace,
    ) -> Result<Reply<MuxStream, RequestBody>, Box<Status>> {
        let target = Target::of(request.uri())
            .ok_or_else(|| Box::new(Status::not_found(format!("there is nothing at {}", request.uri().path()))))?;
        let cluster = self.clusters.find(target.cluster).ok_or_else(|| unknown_cluster(target.cluster))?;
        let name = cluster.record().name.clone();
        if !token.may_reach(&name) {
            return Err(Box::new(Status::forbidden(format!("this token does not reach cluster {name:?}"))));
        }
        let rest = target.rest;
        let request = prepare(request, rest, token, trace)?;
        let link = cluster.pick().ok_or_else(|| offline(&name, &cluster))?;
        send(&link, &name, request, trace).await
    }
}

/// Makes the request one between our own hops: nothing of the client's that is meant for us, or claims an identity.
fn prepare(
    request: Request<Incoming>,
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
    let upgrade = hop::forward_request(headers, !body.is_end_stream());
    for (name, value) in token.identity() {
        headers.append(name, value.clone());
    }
    if let Some(context) = trace.context {
        headers.insert(TRACEPARENT, context.to_header_value());
    }
    // HTTP/1.1 wants a host; the agent replaces it.
    headers.insert(header::HOST, HeaderValue::from_static("kubernetes"));
    // The bytes behind an upgrade are the session's, not the request's.
    let body = if upgrade { Either::Right(Empty::new()) } else { Either::Left(body) };
    head.uri = rest;
    head.version = http::Version::HTTP_11;
    Ok(Request::from_parts(head, body))
}

async fn send(
    link: &AgentLink,
    cluster: &str,
    request: Request<RequestBody>,
    trace: Trace,
) -> Result<Reply<MuxStream, RequestBody>, Box<Status>> {
    // A traced request gets a stream of its own, because the hops between see only the stream's header.
    let own = trace.recorded.then(|| Pool::new(PoolLimits { max_idle: 0, idle_timeout: Duration::ZERO }));
    let pool = own.as_ref().unwrap_or(&link.streams);
    pool.send(request, async || open(link, trace.of_stream()).await, || Either::Right(Empty::new())).await.map_err(
        |error| match error {
            PoolError::Connect(error) => {
                Box::new(Status::unavailable(format!("cannot open a stream to cluster {cluster:?}: {error}")))
            }
            PoolError::Closed => Box::new(Status::unavailable(format!("the link to cluster {cluster:?} was lost"))),
            PoolError::Failed(error) => broken(cluster, &error),
        },
    )
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Open(#[from] mux::OpenError),
    #[error(transparent)]
    Header(#[from] std::io::Error),
    #[error("no id for the stream: {0}")]
    Id(#[from] protocol::InvalidId),
}

/// A stream that begins with its header; the first request follows at once.
async fn open(link: &AgentLink, traced: Option<TraceParent>) -> Result<MuxStream, StreamError> {
    let mut stream = link.link.open().await?;
    let id = StreamId::new(format!("{:016x}", rand::random::<u64>()))?;
    let header = StreamHeader { traceparent: traced, ..StreamHeader::kube(id) };
    stream.write_all(&header.encode_v2()).await?;
    Ok(stream)
}

fn unknown_cluster(cluster: &str) -> Box<Status> {
    Box::new(Status::not_found(format!("cluster {cluster:?} is not known to this control plane")))
}

fn offline(name: &str, cluster: &Cluster) -> Box<Status> {
    let since = match cluster.last_seen() {
        Some(when) => format!("it was last seen at {when}"),
        None => "it has not been seen since this control plane started".to_owned(),
    };
    Box::new(Status::unavailable(format!("cluster {name:?} is offline: its agent is not connected; {since}")))
}

fn broken(cluster: &str, error: &hyper::Error) -> Box<Status> {
    tracing::warn!(cluster, %error, "request got no answer from the cluster");
    Box::new(Status::bad_gateway(format!("the connection to cluster {cluster:?} broke before it answered: {error}")))
}
