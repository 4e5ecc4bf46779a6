use super::*;
use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2 as h2};
use hyper_util::rt::TokioExecutor;
use protocol::{Secret, User};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::agent::Agents;
use crate::auth::{AgentTokens, Grant, Tokens};
use crate::clusters::{Clusters, Limits};
use crate::configs::Configs;
use crate::metrics::Metrics;
use crate::options;
use crate::proxy::Proxy;
use crate::route::Router;
use crate::store::Folder;

const SOON: Duration = Duration::from_secs(20);

/// A listener that shows strangers the door soon.
struct Server {
    address: SocketAddr,
    client: ClientConfig,
    token: Secret,
    _running: JoinHandle<()>,
}

impl Server {
    async fn start(place: &Path) -> Self {
        runtime::tls::install_provider();
        let tls = crate::tls::open(&options::Tls::default(), place).unwrap().unwrap();
        let tokens = Arc::new(Tokens::new(Folder::open(place.join("tokens")).unwrap()));
        let user = User { name: "ana".to_owned(), groups: Vec::new() };
        let (_, token) = tokens.create(Grant::User { user, clusters: None }).unwrap();
        let lifetime = std::time::Duration::from_secs(3600);
        let agent_tokens = Arc::new(AgentTokens::open(Arc::clone(&tokens), place, lifetime).unwrap());
        let configs = Arc::new(Configs::new(Folder::open(place.join("configs")).unwrap()));
        let clusters = Arc::new(Clusters::open(Folder::open(place.join("clusters")).unwrap()).unwrap());
        let metrics = Arc::new(Metrics::default());
        let listener = Arc::new(Listener {
            tls: Some(tls.acceptor),
            site: Arc::new(Router {
                rest: crate::rest::router(Arc::clone(&tokens), Arc::clone(&clusters), axum::Router::new()),
                tokens,
                agent_tokens: Arc::clone(&agent_tokens),
                proxy: Proxy {
                    clusters: Arc::clone(&clusters),
                    tracer: runtime::Tracer::disabled(),
                    limits: Limits::default(),
                    metrics: Arc::clone(&metrics),
                },
                agents: Arc::new(Agents {
                    clusters,
                    tokens: agent_tokens,
                    configs,
                    metrics: Arc::clone(&metrics),
                    link_metrics: mux::LinkMetrics::register(&opentelemetry::global::meter("test"), "test"),
                    options: options::Links::default(),
                    unread: Arc::default(),
                    budget: mux::Budget::limited(1 << 20),
                    shutdown: CancellationToken::new(),
                }),
                metrics,
                certified_agents: false,
                compression: true,
            }),
            max_connections: 16,
            stay: StayLimits {
                unknown: Duration::from_millis(200),
                idle: Duration::from_secs(3600),
                grace: Duration::from_millis(50),
            },
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(place.join("tls/ca.crt")).unwrap()).unwrap();
        Self {
            address,
            client: ClientConfig::builder().with_root_certificates(roots).with_no_client_auth(),
            token,
            _running: tokio::spawn(listener.run(socket)),
        }
    }

    async fn tls(&self, protocol: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut config = self.client.clone();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }

    async fn connect(&self, protocol: &str, reads: bool) -> Client {
        let tls = TokioIo::new(self.tls(protocol).await);
        let (sender, connection) = if protocol == "h2" {
            let mut builder = h2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(if reads { 64 * 1024 } else { 0 });
            let (sender, connection) = builder.handshake(tls).await.unwrap();
            (Sender::Http2(sender), tokio::spawn(async { drop(connection.await) }))
        } else {
            let (sender, connection) = http1::handshake(tls).await.unwrap();
            (Sender::Http1(sender), tokio::spawn(async { drop(connection.await) }))
        };
        Client { sender, connection, unread: (!reads).then(Vec::new) }
    }
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(h2::SendRequest<Empty<Bytes>>),
}

struct Client {
    sender: Sender,
    /// Until it ends.
    connection: JoinHandle<()>,
    /// Responses, of a client that reads none to its end.
    unread: Option<Vec<Response<hyper::body::Incoming>>>,
}

impl Client {
    async fn get(&mut self, path: &str, token: &str) -> hyper::Result<StatusCode> {
        let request = Request::get(format!("https://localhost{path}"))
            .header("host", "localhost")
            .header("authorization", format!("Bearer {token}"))
            .body(Empty::new())
            .unwrap();
        let response = match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await?,
            Sender::Http2(sender) => sender.send_request(request).await?,
        };
        let status = response.status();
        match &mut self.unread {
            Some(unread) => unread.push(response),
            None => drop(response.into_body().collect().await?),
        }
        Ok(status)
    }

    async fn ends(self) {
        timeout(SOON, self.connection).await.expect("the connection stays").unwrap();
    }
}

async fn strangers_have_to_go(protocol: &str, strangers_read: bool) {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(place.path()).await;
    let silent = server.connect(protocol, true).await;
    let mut stranger = server.connect(protocol, strangers_read).await;
    let mut user = server.connect(protocol, true).await;
    let mut lister = server.connect(protocol, true).await;
    let (nowhere, list) = ("/api/v1/clusters/agent/nowhere/proxy/version", "/api/v1/clusters");
    assert_eq!(user.get(nowhere, server.token.expose()).await.unwrap(), StatusCode::NOT_FOUND);
    assert_eq!(lister.get(list, server.token.expose()).await.unwrap(), StatusCode::OK);
    let mut refused = 0;
    while let Ok(status) = timeout(SOON, stranger.get(nowhere, "wrong")).await.expect("no answer, and no end") {
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        refused += 1;
    }
    assert!(refused > 0);
    stranger.ends().await;
    silent.ends().await;
    // They are no newer, and did nothing for as long.
    assert_eq!(user.get(nowhere, server.token.expose()).await.unwrap(), StatusCode::NOT_FOUND);
    assert_eq!(lister.get(list, server.token.expose()).await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn connections_without_a_valid_token_end_over_http1() {
    strangers_have_to_go("http/1.1", true).await;
}

#[tokio::test]
async fn connections_without_a_valid_token_end_over_http2() {
    strangers_have_to_go("h2", true).await;
}

#[tokio::test]
async fn connections_that_let_no_refusal_end_are_cut_over_http2() {
    strangers_have_to_go("h2", false).await;
}

#[tokio::test]
async fn what_is_no_proper_request_is_told_so_as_the_api_server_would() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(place.path()).await;
    let large = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "v".repeat(Router::ROOM.head as usize));
    for (request, code, reason, message) in [
        ("GET / HTTP/1.1\r\n\r\n", 400, "BadRequest", "not exactly one host"),
        ("no request\r\n\r\n", 400, "BadRequest", "not that of an HTTP/1.1 message"),
        (&large, 431, "RequestHeaderFieldsTooLarge", "the head is too large"),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", 501, "NotImplemented", "other than chunked"),
    ] {
        let mut client = server.tls("http/1.1").await;
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, client.read_to_string(&mut answer)).await.expect("the connection stays").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")) && head.contains("application/json"), "{head}");
        let status: protocol::Status = serde_json::from_str(body).unwrap();
        assert_eq!((status.code, status.reason.as_str()), (code, reason));
        assert!(status.message.contains(message), "{}", status.message);
    }
}

/// What each idle watch or kept connection costs beside its TLS.
#[test]
fn the_task_of_a_connection_is_small() {
    fn size<A, B, F>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }
    let size = size::<&Listener<Router>, _, _>(Listener::connection);
    assert!(size <= 3072, "{size} bytes");
}
