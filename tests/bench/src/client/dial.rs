//! Ways to a server: straight, or through a tunnel, with TLS to its end.

use anyhow::{Context, Result, ensure};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

type Socket = Either<TcpStream, UnixStream>;
pub(crate) type Stream = Either<TlsStream<Socket>, Socket>;

const MAX_CONNECT_ANSWER: usize = 4096;

/// Where requests go and what all of them carry.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What it is called in errors.
    pub(crate) name: &'static str,
    pub(crate) route: Route,
    /// `None`: plain HTTP.
    pub(crate) tls: Option<Tls>,
    /// In front of every path.
    pub(crate) prefix: String,
    /// A bearer token.
    pub(crate) token: Option<String>,
}

/// How the first byte gets there.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Tcp(SocketAddr),
    /// An HTTP CONNECT to this authority over a Unix socket.
    Connect {
        socket: PathBuf,
        authority: String,
    },
}

/// Trust in one authority, for a server of one address.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    pub(crate) fn trusting(ca_pem: &str, server: IpAddr) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate.context("a bad CA certificate")?).context("a bad CA certificate")?;
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self { config: Arc::new(config), name: ServerName::from(server) })
    }
}

impl Target {
    /// A plain HTTP server.
    pub(crate) fn plain(name: &'static str, route: Route) -> Self {
        Self { name, route, tls: None, prefix: String::new(), token: None }
    }

    /// The head of a request, ready to send.
    pub(crate) fn request(&self, method: &str, path: &str, content: Option<(&str, u64)>) -> Vec<u8> {
        let mut head = format!("{method} {}{path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\n", self.prefix);
        if let Some(token) = &self.token {
            head.push_str("authorization: Bearer ");
            head.push_str(token);
            head.push_str("\r\n");
        }
        if let Some((kind, length)) = content {
            head.push_str(&format!("content-type: {kind}\r\ncontent-length: {length}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    pub(crate) fn get(&self, path: &str) -> Vec<u8> {
        self.request("GET", path, None)
    }

    /// A request with a small body.
    pub(crate) fn with_body(&self, method: &str, path: &str, kind: &str, body: &str) -> Vec<u8> {
        let mut request = self.request(method, path, Some((kind, body.len() as u64)));
        request.extend_from_slice(body.as_bytes());
        request
    }

    pub(crate) async fn connect(&self) -> Result<Stream> {
        let socket = match &self.route {
            Route::Tcp(address) => {
                let tcp = TcpStream::connect(address).await.with_context(|| address.to_string())?;
                tcp.set_nodelay(true)?;
                Either::Left(tcp)
            }
            Route::Connect { socket, authority } => {
                let mut unix = UnixStream::connect(socket).await.with_context(|| socket.display().to_string())?;
                tunnel(&mut unix, authority).await.with_context(|| format!("CONNECT {authority}"))?;
                Either::Right(unix)
            }
        };
        match &self.tls {
            Some(Tls { config, name }) => {
                let connector = TlsConnector::from(Arc::clone(config));
                Ok(Either::Left(connector.connect(name.clone(), socket).await.context("the TLS handshake failed")?))
            }
            None => Ok(Either::Right(socket)),
        }
    }
}

async fn tunnel(unix: &mut UnixStream, authority: &str) -> Result<()> {
    let request = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    unix.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte: what comes behind the head is the tunnel's.
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(answer.len() < MAX_CONNECT_ANSWER, "the answer has no end");
        answer.push(unix.read_u8().await?);
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    ensure!(status.split_whitespace().nth(1) == Some("200"), "{status}");
    Ok(())
}
