//! HTTP servers behind Services of the cluster: another destination for the same exchanges.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bus::{BusStream, OpenHeader};
use exchange::{BoxError, Incoming, Pool, PoolError, PoolLimits, Reply, UpgradeSlot, Upgraded};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body as _;
use protocol::stream::InvalidTarget;
use protocol::{HttpTarget, Target, hop, identity};
use runtime::tls::{TlsError, unverified_client_config};
use runtime::{SpanKind, Tracer, error_text};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use targets::{Forbidden, Names, Unreachable};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;

use crate::body::{ResponseBody, Spans, Watch};
use crate::metrics::Metrics;
use crate::options;
use crate::policy::{Limits, Refusal};
use crate::upstream::Transport;

/// Of the one connection that a stream keeps for its next request.
const IDLE: PoolLimits = PoolLimits { max_idle: 1, idle_timeout: Duration::from_secs(30) };

/// What reaching Services takes.
#[derive(Debug)]
pub struct Services {
    pub options: options::Services,
    pub names: Names,
    pub limits: Arc<Limits>,
    /// Made with the first Service that speaks TLS.
    pub tls: OnceLock<Arc<ClientConfig>>,
    pub tracer: Tracer,
    pub metrics: Arc<Metrics>,
}

/// Why there is no answer from a Service.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error("the stream names no Service")]
    NoTarget,
    #[error("the stream does not name a Service: {0}")]
    Target(#[from] InvalidTarget),
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    #[error(transparent)]
    Limit(#[from] Refusal),
    #[error("the request target {0} has no path")]
    NoPath(Uri),
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("TLS cannot be used")]
    Tls(#[from] TlsError),
    #[error("TLS handshake with Service {target} failed: does it speak https?")]
    Handshake { target: String, source: io::Error },
    #[error("Service {target} closed each connection before the request was sent")]
    Closed { target: String },
    #[error("the connection to Service {target} failed before it answered")]
    Exchange { target: String, source: exchange::Error },
}

impl ServiceError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoTarget | Self::Target(_) | Self::NoPath(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) | Self::Limit(_) => StatusCode::FORBIDDEN,
            // It certainly had no effect.
            Self::Unreachable(_) | Self::Tls(_) | Self::Handshake { .. } | Self::Closed { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Exchange { .. } => StatusCode::BAD_GATEWAY,
        }
    }
}

impl Services {
    /// Answers the requests of one stream, all for the Service that its header names.
    pub async fn serve(
        self: Arc<Self>,
        header: OpenHeader,
        stream: BusStream,
        settings: exchange::Settings,
        stop: impl Future<Output = ()>,
    ) {
        let slot = UpgradeSlot::new();
        let pool = Pool::new(IDLE);
        let respond = |request| self.execute(request, &header, &pool, &slot);
        let ended = match exchange::serve(settings, stream, slot.clone(), stop, respond).await {
            Ok(Some((client, upstream))) => {
                Box::pin(duplex::relay(client, upstream, |_| {})).await.map_err(BoxError::from)
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            tracing::debug!(stream = header.id, error = error_text(&*error), "stream of a Service ended early");
        }
    }

    async fn execute(
        &self,
        request: Request<Incoming>,
        header: &OpenHeader,
        pool: &Arc<Pool<Transport>>,
        slot: &UpgradeSlot<Upgraded<Transport>>,
    ) -> Response<ResponseBody> {
        let active = self.metrics.begin();
        let mut span = self.tracer.start("proxy.service", SpanKind::Server, header.traceparent.as_ref());
        if span.is_recording() {
            span.set("http.request.method", request.method().as_str().to_owned());
            span.set("url.path", request.uri().path().to_owned());
        }
        let outcome = self.send(request, header, pool).await;
        if let Err(error) = &outcome {
            span.fail(error_text(error));
        }
        let recording = span.is_recording();
        let watch = Watch { spans: recording.then(|| Box::new(Spans { api: None, request: span })), active };
        match outcome {
            Ok(Reply::Response(mut response)) => {
                watch.active.answered(response.status());
                hop::strip_hop_by_hop(response.headers_mut());
                response.headers_mut().remove(&identity::NO_ANSWER);
                response.map(|body| watch.api(body))
            }
            Ok(Reply::Upgraded(response, upstream)) => {
                watch.active.answered(response.status());
                watch.active.upgraded();
                slot.put(upstream);
                response.map(|()| watch.ours(Vec::new()))
            }
            Err(error) => {
                let text = error_text(&error);
                tracing::warn!(error = text, target = header.target, "a Service gave no answer");
                watch.active.answered(error.status());
                let mut response = Response::new(watch.ours(format!("{text}\n").into_bytes()));
                *response.status_mut() = error.status();
                let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, plain);
                response.headers_mut().insert(identity::NO_ANSWER, HeaderValue::from_static("true"));
                response
            }
        }
    }

    async fn send(
        &self,
        request: Request<Incoming>,
        header: &OpenHeader,
        pool: &Arc<Pool<Transport>>,
    ) -> Result<Reply<Transport>, ServiceError> {
        let target: HttpTarget = header.target.as_deref().ok_or(ServiceError::NoTarget)?.parse()?;
        self.options.access.check(&target.target)?;
        self.limits.check(request.method(), &as_the_api_would(&target.target)?, request.headers())?;
        let (mut head, body) = request.into_parts();
        // Credentials are the Service's own affair; whom our hops name is not.
        identity::strip(&mut head.headers);
        hop::forward_request(&mut head.headers, !body.is_end_stream());
        let path = head.uri.path_and_query().cloned();
        head.uri = path.map(Uri::from).ok_or(ServiceError::NoPath(head.uri))?;
        head.version = http::Version::HTTP_11;
        let request = Request::from_parts(head, body);
        pool.send(request, || self.connect(&target, pool)).await.map_err(|error| match error {
            PoolError::Connect(error) => error,
            PoolError::Closed => ServiceError::Closed { target: target.to_string() },
            PoolError::Failed(source) => ServiceError::Exchange { target: target.to_string(), source },
        })
    }

    async fn connect(
        &self,
        target: &HttpTarget,
        pool: &Arc<Pool<Transport>>,
    ) -> Result<(Transport, Arc<Pool<Transport>>), ServiceError> {
        let limit = self.options.connection_timeout.get();
        let tcp = self.names.connect(&target.target, limit).await?;
        if !target.tls {
            return Ok((Transport::new(Either::Right(tcp)), Arc::clone(pool)));
        }
        let failed = |source| ServiceError::Handshake { target: target.to_string(), source };
        let config = match self.tls.get() {
            Some(config) => config,
            None => {
                // Nobody signs for the names that Services have in their cluster; the way there is inside of it.
                let config = unverified_client_config(&[b"http/1.1"])?;
                self.tls.get_or_init(|| config)
            }
        };
        let name = ServerName::try_from(self.names.host(&target.target)).map_err(|e| failed(io::Error::other(e)))?;
        let handshake = TlsConnector::from(Arc::clone(config)).connect(name, tcp);
        let tls = timeout(limit, handshake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        Ok((Transport::new(Either::Left(Box::new(tls.map_err(failed)?))), Arc::clone(pool)))
    }
}

/// The path by which the API server relays to the same Service: the limits of requests are of such paths.
fn as_the_api_would(target: &Target) -> Result<Uri, ServiceError> {
    let (namespace, service, port) = (target.namespace(), target.service(), target.port());
    let path = format!("/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy/");
    path.parse().map_err(|_| ServiceError::NoTarget)
}
