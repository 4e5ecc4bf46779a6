//! Browsers and the like.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::control_plane::{SOON, trusting};

pub enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// One connection.
pub struct Client {
    pub sender: Sender,
    _driving: JoinSet<()>,
}

/// All of what came.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}: {}", self.status, self.text()))
    }
}

/// With that name, trusting this certificate alone.
pub async fn tls(address: SocketAddr, name: &str, ca: &str, alpn: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = trusting(ca).with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

impl Client {
    pub async fn http(address: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) = http1::handshake(io).await.unwrap();
        let mut driving = JoinSet::new();
        driving.spawn(async move { drop(connection.with_upgrades().await) });
        Self { sender: Sender::Http1(sender), _driving: driving }
    }

    pub async fn http2(stream: TlsStream<TcpStream>) -> Self {
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let mut driving = JoinSet::new();
        driving.spawn(async move { drop(connection.await) });
        Self { sender: Sender::Http2(sender), _driving: driving }
    }

    /// The response's head, and its body as it comes.
    pub async fn begin(&mut self, request: Request<impl Into<Bytes>>) -> Response<Incoming> {
        let request = request.map(|body| Full::new(body.into()));
        let response = async {
            match &mut self.sender {
                Sender::Http1(sender) => {
                    sender.ready().await.expect("the connection was closed");
                    sender.send_request(request).await
                }
                Sender::Http2(sender) => sender.send_request(request).await,
            }
        };
        timeout(SOON, response).await.expect("no answer").unwrap()
    }

    pub async fn ask(&mut self, request: Request<impl Into<Bytes>>) -> Answer {
        let (head, body) = self.begin(request).await.into_parts();
        let body = timeout(SOON, body.collect()).await.expect("it does not end").unwrap();
        let trailers = body.trailers().cloned();
        Answer { status: head.status, headers: head.headers, body: body.to_bytes(), trailers }
    }

    /// A GET over HTTP/1.1.
    pub async fn get(&mut self, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(path).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask(request.body("").unwrap()).await
    }
}
