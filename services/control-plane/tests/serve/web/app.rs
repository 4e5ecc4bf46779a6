//! A Service, at the agent's end of `http` streams.

use std::convert::Infallible;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use protocol::StreamKind;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Stage;
use crate::control_plane::ControlPlane;
use crate::linked::Agent;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Serves streams until it is dropped.
pub struct App {
    /// The target of each stream that was opened.
    pub streams: mpsc::Receiver<String>,
    /// What `/events` sends next.
    pub events: mpsc::Sender<&'static str>,
    _serving: JoinSet<()>,
}

impl App {
    pub async fn of(stage: &Stage) -> Self {
        Self::start(&stage.server, &stage.data(), &stage.secret, true).await
    }

    /// `new`: the agent speaks more than the published protocol.
    pub async fn start(server: &ControlPlane, data: &Path, secret: &str, new: bool) -> Self {
        let mut agent = Agent::connect(server, data, secret, if new { &["streams/2"] } else { &[] }).await;
        let (opened, streams) = mpsc::channel(64);
        let (events, sent) = mpsc::channel(64);
        let mut sent = Some(sent);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some((header, stream)) = agent.next().await {
                assert_eq!(header.kind, if new { StreamKind::Http } else { StreamKind::Tcp });
                let target = header.target.unwrap().to_string();
                opened.try_send(target.clone()).unwrap();
                let events = if target.contains("events") { sent.take() } else { None };
                let events = std::sync::Arc::new(std::sync::Mutex::new(events));
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, target.clone(), events.clone()));
                    let io = TokioIo::new(stream);
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ended = http.serve_connection(io, service).with_upgrades().await;
                });
            }
        });
        Self { streams, events, _serving: serving }
    }
}

type Events = std::sync::Arc<std::sync::Mutex<Option<mpsc::Receiver<&'static str>>>>;

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

async fn answer(mut request: Request<Incoming>, target: String, events: Events) -> Result<Response<Body>, Infallible> {
    let mut response = Response::new(full(""));
    match request.uri().path() {
        "/echo" => *response.body_mut() = request.into_body().boxed_unsync(),
        "/large" => *response.body_mut() = full(vec![7; 8 << 20]),
        "/events" => {
            let mut events = events.lock().unwrap().take().unwrap();
            let frames = futures::stream::poll_fn(move |cx| {
                events.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(Bytes::from(event)))))
            });
            *response.body_mut() = StreamBody::new(frames).boxed_unsync();
            response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
        }
        "/trailers" => {
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("42"))]);
            let frames = [Ok(Frame::data(Bytes::from("data"))), Ok(Frame::trailers(trailers))];
            *response.body_mut() = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
            response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
        }
        "/socket" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                io.write_all(b"hello").await.unwrap();
                let (mut read, mut write) = tokio::io::split(io);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
            response.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
        }
        "/away" => {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert("x-pipeops-no-answer", HeaderValue::from_static("true"));
            *response.body_mut() = full("no Service shop/<web>\n");
        }
        "/busy" => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
        path => {
            let mut headers = serde_json::Map::new();
            for (name, value) in request.headers() {
                let value = value.to_str().unwrap();
                let before = headers.insert(name.to_string(), value.into());
                assert_eq!(before, None, "{name} comes twice");
            }
            let seen = json!({"target": target, "path": path, "query": request.uri().query(), "headers": headers});
            *response.body_mut() = full(seen.to_string());
        }
    }
    Ok(response)
}
