//! `/health`, `/ready`, `/version` and `/metrics`: for probes and scrapers, not for the world.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{Health, metrics::Metrics};

/// Far more than probes and scrapers need; whoever opens more waits.
const MAX_CONNECTIONS: usize = 64;
/// A connection that sends no complete request for this long is closed, idle or slow.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// After running out of descriptors, so that the accept loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Routes {
    pub name: &'static str,
    pub version: &'static str,
    pub health: Health,
    pub metrics: Metrics,
}

#[derive(Serialize)]
struct HealthBody {
    status: &'static str,
}

#[derive(Serialize)]
struct VersionBody {
    name: &'static str,
    version: &'static str,
}

/// Serves until `stop`; then open connections are dropped.
pub(crate) async fn serve(listener: TcpListener, routes: Arc<Routes>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&routes)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a probe's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, routes: Arc<Routes>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(&routes, request.method(), request.uri().path());
        async { Ok::<_, Infallible>(response) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(16 * 1024);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a probe's connection ended");
    }
}

fn respond(routes: &Routes, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/health" => json(StatusCode::OK, &HealthBody { status: "ok" }),
        "/ready" => {
            let report = routes.health.report();
            json(if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &report)
        }
        "/version" => json(StatusCode::OK, &VersionBody { name: routes.name, version: routes.version }),
        "/metrics" => match routes.metrics.render() {
            Ok(text) => response(StatusCode::OK, prometheus::TEXT_FORMAT, text.into()),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot render metrics: {error}\n")),
        },
        _ => plain(StatusCode::NOT_FOUND, "not found; there are /health, /ready, /version and /metrics\n"),
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(body).map_err(io::Error::from) {
        Ok(body) => response(status, "application/json", body.into()),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(text.as_bytes()))
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
