//! Users' clients: HTTP/1.1, HTTP/2 and WebSocket as others make them.

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest as _};

use super::agent::Stage;
use crate::control_plane::SOON;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

pub const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// One connection.
pub struct User {
    sender: Sender,
    token: String,
    running: JoinHandle<()>,
}

impl Drop for User {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// What came, and whether it came to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub whole: bool,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The message of a `Status`.
    pub fn message(&self) -> String {
        let status: Value = serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"));
        assert!(status["kind"] == "Status" && status["code"] == self.status.as_u16(), "{status}");
        status["message"].as_str().unwrap().to_owned()
    }
}

pub fn path(rest: &str) -> String {
    format!("/api/v1/clusters/agent/prod/proxy{rest}")
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

impl User {
    pub async fn connect(stage: &Stage, version: Version) -> Self {
        let token = stage.user.clone();
        match version {
            Version::Http1 => {
                let stream = stage.server.connect(&stage.ca).await.unwrap();
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
                let running = tokio::spawn(async move { drop(connection.await) });
                Self { sender: Sender::Http1(sender), token, running }
            }
            Version::Http2 => {
                let stream = stage.server.connect_http2(&stage.ca).await.unwrap();
                let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
                let running = tokio::spawn(async move { drop(connection.await) });
                Self { sender: Sender::Http2(sender), token, running }
            }
        }
    }

    /// Sends a request; its answer may be waited for while the agent plays its part.
    pub async fn send(
        &mut self,
        method: Method,
        rest: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<> {
        let uri = match &self.sender {
            Sender::Http1(_) => path(rest),
            Sender::Http2(_) => format!("https://localhost{}", path(rest)),
        };
        let mut request = Request::builder().method(method).uri(uri);
        request = request.header("authorization", format!("Bearer {}", self.token));
        if let Sender::Http1(_) = &self.sender {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        let sent: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.unwrap();
                Box::pin(sender.send_request(request))
            }
            Sender::Http2(sender) => {
                sender.ready().await.unwrap();
                Box::pin(sender.send_request(request))
            }
        };
        sent
    }

    pub async fn get(&mut self, rest: &str) -> JoinHandle<Answer> {
        self.ask(Method::GET, rest, &[], full("")).await
    }

    /// The answer as a whole, in a task of its own.
    pub async fn ask(
        &mut self,
        method: Method,
        rest: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> JoinHandle<Answer> {
        let sent = self.send(method, rest, headers, body).await;
        tokio::spawn(async move { collect(sent.await.unwrap()).await })
    }
}

/// What comes of a response.
pub async fn collect(response: Response<Incoming>) -> Answer {
    let (head, mut incoming) = response.into_parts();
    let mut answer = Answer { status: head.status, headers: head.headers, body: Vec::new(), whole: true };
    while let Some(frame) = timeout(SOON, incoming.frame()).await.expect("the answer goes on for ever") {
        match frame {
            Ok(frame) => answer.body.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => {
                answer.whole = false;
                break;
            }
        }
    }
    answer
}

/// The answer of a task, soon.
pub async fn soon<T>(task: JoinHandle<T>) -> T {
    timeout(SOON, task).await.expect("it takes too long").unwrap()
}

pub type WebSocket = WebSocketStream<TlsStream<TcpStream>>;

/// A WebSocket of the user's, or the answer that there is none.
pub async fn websocket(
    stage: &Stage,
    rest: &str,
    subprotocols: &str,
) -> Result<(WebSocket, HeaderMap), (StatusCode, String)> {
    let mut request = format!("wss://localhost{}", path(rest)).into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {}", stage.user).parse().unwrap());
    if !subprotocols.is_empty() {
        headers.insert("sec-websocket-protocol", subprotocols.parse().unwrap());
    }
    let stream = stage.server.connect(&stage.ca).await.unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, response)) => Ok((socket, response.headers().clone())),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            Err((response.status(), String::from_utf8(body).unwrap()))
        }
        Err(error) => panic!("{error}"),
    }
}

pub async fn say(socket: &mut WebSocket, message: Message) {
    timeout(SOON, socket.send(message)).await.expect("it takes nothing").unwrap();
}

/// The next message but pongs.
pub async fn hear(socket: &mut WebSocket) -> Message {
    loop {
        match timeout(SOON, socket.next()).await.expect("no message").expect("it has ended").unwrap() {
            Message::Pong(_) => {}
            message => return message,
        }
    }
}

/// The code and reason of the close frame that comes next.
pub async fn closed(socket: &mut WebSocket) -> (u16, String) {
    match hear(socket).await {
        Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
        message => panic!("no close frame with a code but {message:?}"),
    }
}
