use std::sync::Arc;

use exchange::{Incoming, Reply, UpgradeSlot};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body as _;
use protocol::status::{is_relayed, shows_no_status};
use protocol::{IdentityError, Status, TraceParent, User, hop, identity};
use runtime::{SpanKind, Tracer, error_text};

use crate::body::{ResponseBody, Spans, Watch};
use crate::metrics::Metrics;
use crate::options::{Policy, RbacMode};
use crate::policy::Limits;
use crate::upstream::{Credentials, Transport, Upstream, UpstreamError};

const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");
const IMPERSONATE_GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Runs requests: the same path for a small GET, a watch, an upload and an exec session.
#[derive(Debug)]
pub struct Executor {
    pub upstream: Upstream,
    pub rbac: RbacMode,
    pub policy: Policy,
    pub limits: Arc<Limits>,
    pub tracer: Tracer,
    pub metrics: Arc<Metrics>,
}

const NOBODY: &str = "the request names no user and has no credentials, and this agent runs requests only under a user's \
     identity (rbac.mode impersonate): the control plane has to send a Kubernetes token as Authorization, or name the user; \
     or set rbac.mode to view, admin or custom to run such requests with the agent's own rights";

type Slot = UpgradeSlot<exchange::Upgraded<Transport>>;

impl Executor {
    /// Answers `request`, which has been through the control plane and the link. `stream` is the hop before this one as
    /// it was when the stream was opened, for this request or for an earlier one.
    pub async fn execute(
        &self,
        request: Request<Incoming>,
        slot: &Slot,
        stream: Option<&TraceParent>,
    ) -> Response<ResponseBody> {
        let active = self.metrics.begin();
        let parent = parent(stream, request.headers());
        let mut span = self.tracer.start("proxy.request", SpanKind::Server, parent.as_ref());
        let recording = span.is_recording();
        if recording {
            span.set("http.request.method", request.method().as_str().to_owned());
            span.set("url.path", request.uri().path().to_owned());
        }
        let unread = shows_no_status(request.uri().path());
        let mut api_span = None;
        let outcome = match self.prepare(request) {
            Ok((request, credentials)) => {
                let call = self.tracer.start("kubernetes.api", SpanKind::Client, span.context().as_ref());
                let request = with_traceparent(request, call.context().or(parent));
                let outcome = self.send(request, credentials, slot).await;
                api_span = recording.then_some(call);
                outcome
            }
            Err(status) => Err(status),
        };
        let status = outcome.as_ref().map_or_else(|s| s.http_status(), Response::status);
        active.answered(status);
        if recording {
            span.set("http.response.status_code", i64::from(status.as_u16()));
        }
        let mut watch = Watch { spans: recording.then(|| Box::new(Spans { api: api_span, request: span })), active };
        match outcome {
            Ok(response) => {
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    watch.active.upgraded();
                }
                let (head, upstream) = response.into_parts();
                let body = match upstream {
                    Some(body) => watch.api(body),
                    None => watch.ours(Vec::new()),
                };
                Response::from_parts(head, body)
            }
            Err(status) => {
                if status.code >= 500 {
                    watch.active.upstream_failed();
                    if let Some(spans) = &mut watch.spans {
                        spans.request.fail(status.message.clone());
                    }
                }
                error_response(&status, unread, watch)
            }
        }
    }

    /// Turns the request as it came over the link into the one the API server gets.
    fn prepare(&self, request: Request<Incoming>) -> Result<(Request<Incoming>, Credentials), Box<Status>> {
        let (mut head, body) = request.into_parts();
        let refused = |message: String| Box::new(Status::bad_request(message));
        let user = match User::read_headers(&head.headers) {
            Ok(user) => Some(user),
            // A control plane of the published protocol names no users: it sends the credentials themselves.
            Err(IdentityError::Missing) => None,
            Err(error) => return Err(refused(error.to_string())),
        };
        if let Some(user) = &user {
            self.policy.check_user(user).map_err(|e| Box::new(e.status()))?;
        }
        self.limits.check(&head.method, &head.uri, &head.headers).map_err(|e| Box::new(e.status()))?;
        let given = user.is_none() && head.headers.contains_key(header::AUTHORIZATION);
        if given {
            // Whom these credentials may impersonate is for the API server to say, and whom nobody may, for the owner.
            self.policy.check_user(&impersonated(&head.headers)).map_err(|e| Box::new(e.status()))?;
            identity::strip_ours(&mut head.headers);
        } else {
            identity::strip(&mut head.headers);
            head.headers.remove(header::AUTHORIZATION);
        }
        hop::forward_request(&mut head.headers, !body.is_end_stream());
        if self.rbac == RbacMode::Impersonate {
            match &user {
                Some(user) => impersonate(user, &mut head.headers).map_err(refused)?,
                None if !given => return Err(Box::new(Status::unauthorized(NOBODY))),
                None => {}
            }
        }
        head.uri = origin_form(&head.uri).map_err(refused)?;
        head.version = http::Version::HTTP_11;
        let credentials = if given { Credentials::Given } else { Credentials::Own };
        Ok((Request::from_parts(head, body), credentials))
    }

    async fn send(
        &self,
        request: Request<Incoming>,
        credentials: Credentials,
        slot: &Slot,
    ) -> Result<Response<Option<exchange::Body<Transport>>>, Box<Status>> {
        let relayed = credentials == Credentials::Given || is_relayed(request.uri().path());
        match self.upstream.send(request, credentials).await {
            Ok(Reply::Response(response)) if response.status() == StatusCode::UNAUTHORIZED && !relayed => {
                self.upstream.credentials_refused();
                Err(Box::new(Status::unavailable(
                    "the API server refused the agent's own credentials (401); the token file is read again for the next request",
                )))
            }
            Ok(Reply::Response(mut response)) => {
                hop::strip_hop_by_hop(response.headers_mut());
                Ok(response.map(Some))
            }
            Ok(Reply::Upgraded(response, upstream)) => {
                slot.put(upstream);
                Ok(response.map(|()| None))
            }
            Err(error) => Err(Box::new(self.describe(&error))),
        }
    }

    fn describe(&self, error: &UpstreamError) -> Status {
        let message = error_text(error);
        tracing::warn!(error = %message, api_server = self.upstream.address(), "request got no answer");
        if error.unsent() { Status::unavailable(message) } else { Status::bad_gateway(message) }
    }
}

/// The hop before this one: the stream, if it belongs to the request's own trace.
fn parent(stream: Option<&TraceParent>, headers: &HeaderMap) -> Option<TraceParent> {
    let request = TraceParent::from_headers(headers);
    let same = |stream: &&TraceParent| request.is_none_or(|request| request.trace_id == stream.trace_id);
    stream.filter(same).copied().or(request)
}

/// Whom a request asks to run as.
fn impersonated(headers: &HeaderMap) -> User {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let name = headers.get(IMPERSONATE_USER).map(text).unwrap_or_default();
    User { name, groups: headers.get_all(IMPERSONATE_GROUP).iter().map(text).collect() }
}

fn impersonate(user: &User, headers: &mut HeaderMap) -> Result<(), String> {
    let value = |name: &str| {
        HeaderValue::from_bytes(name.as_bytes())
            .map_err(|_| format!("the name {name:?} cannot be given to the API server: it does not fit a header"))
    };
    headers.insert(IMPERSONATE_USER, value(&user.name)?);
    for group in &user.groups {
        headers.append(IMPERSONATE_GROUP, value(group)?);
    }
    Ok(())
}

fn origin_form(uri: &Uri) -> Result<Uri, String> {
    match uri.path_and_query() {
        Some(path) => Ok(Uri::from(path.clone())),
        None => Err(format!("the request target {uri} has no path")),
    }
}

fn with_traceparent(mut request: Request<Incoming>, context: Option<TraceParent>) -> Request<Incoming> {
    if let Some(context) = context {
        request.headers_mut().insert(TRACEPARENT, context.to_header_value());
    }
    request
}

/// `unread`: the client shows nobody the body.
fn error_response(status: &Status, unread: bool, watch: Watch) -> Response<ResponseBody> {
    status.to_response(unread).map(|body| watch.ours(body))
}
