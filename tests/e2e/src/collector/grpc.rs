//! As much of gRPC as it takes to be sent spans: one message in, an empty one out, over HTTP/2 without TLS.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::{Body, Incoming},
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
    server::conn::http2::Builder,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use std::{convert::Infallible, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};

/// In front of each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

pub(super) async fn accept(listener: TcpListener, keep: impl Fn(ExportTraceServiceRequest) + Send + Sync + 'static) {
    let keep = Arc::new(keep);
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let keep = Arc::clone(&keep);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let keep = Arc::clone(&keep);
                async move {
                    match receive(request).await {
                        Ok(request) => keep(request),
                        // Shows in the test's output; the missing spans fail it.
                        Err(error) => eprintln!("collector: {error:#}"),
                    }
                    Ok::<_, Infallible>(done())
                }
            });
            // The API server is stopped, or killed, without saying good-bye.
            drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), service).await);
        });
    }
}

async fn receive(request: Request<Incoming>) -> Result<ExportTraceServiceRequest> {
    let body = request.into_body().collect().await?.to_bytes();
    let message = body.get(PREFIX..).filter(|_| body.first() == Some(&0)).context("no uncompressed message")?;
    Ok(ExportTraceServiceRequest::decode(message)?)
}

fn done() -> Response<impl Body<Data = Bytes, Error = Infallible>> {
    let status = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let empty = Full::new(Bytes::from_static(&[0; PREFIX])).with_trailers(std::future::ready(Some(Ok(status))));
    let mut response = Response::new(empty);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
