use std::io;
use std::sync::Arc;
use std::time::Duration;

use duplex::Socket;
use exchange::{Incoming, Pool, PoolError, PoolLimits, Reply};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Uri, header};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::credentials::{CaFile, CredentialError, TokenFile};
use crate::options::Kubernetes;

/// Boxed: the state of TLS is large, and each future that a connection passes through keeps a place for it.
pub type Transport = Socket<Either<Box<TlsStream<TcpStream>>, TcpStream>>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The API server closes a connection that was idle for 90 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Whose credentials a request shows to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// This pod's.
    Own,
    /// Those that came with it.
    Given,
}

/// The API server: where it is, how it is trusted, and the connections that wait for the next request.
#[derive(Debug)]
pub struct Upstream {
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    ca: CaFile,
    token: TokenFile,
    pool: Arc<Pool<Transport>>,
}

#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error(transparent)]
    Unset(#[from] kubernetes::NoAddress),
    #[error("{0:?} is not an address of an API server: expected https://HOST:PORT")]
    Malformed(String),
}

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error("cannot connect to the API server at {address}")]
    Connect { address: String, source: io::Error },
    #[error("TLS handshake with the API server at {address} failed")]
    Tls { address: String, source: io::Error },
    #[error("no connection to the API server at {address} within {}s", CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout { address: String },
    #[error("the API server's connection failed before it answered")]
    Exchange(#[source] exchange::Error),
    #[error("the API server closed each connection before the request was sent")]
    Closed,
}

impl UpstreamError {
    /// The request certainly had no effect.
    pub fn unsent(&self) -> bool {
        !matches!(self, Self::Exchange(_))
    }
}

impl Upstream {
    pub fn new(options: &Kubernetes) -> Result<Self, AddressError> {
        let url = options.server.url()?;
        let malformed = || AddressError::Malformed(url.clone());
        let parts = url.parse::<Uri>().map_err(|_| malformed())?.into_parts();
        let scheme = parts.scheme.filter(|s| *s == Scheme::HTTPS || *s == Scheme::HTTP).ok_or_else(malformed)?;
        let authority = parts.authority.ok_or_else(malformed)?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| malformed())?;
        Ok(Self {
            scheme,
            authority,
            host,
            ca: CaFile::new(options.server.ca_file.clone()),
            token: TokenFile::new(options.server.token_file.clone()),
            pool: Pool::new(PoolLimits { max_idle: options.max_idle_connections, idle_timeout: IDLE_TIMEOUT }),
        })
    }

    pub fn address(&self) -> &str {
        self.authority.as_str()
    }

    /// Sends `request` (origin-form URI).
    pub async fn send(
        &self,
        mut request: Request<Incoming>,
        credentials: Credentials,
    ) -> Result<Reply<Transport>, UpstreamError> {
        request.headers_mut().insert(header::HOST, self.host.clone());
        if self.scheme == Scheme::HTTPS && credentials == Credentials::Own {
            request.headers_mut().insert(header::AUTHORIZATION, self.token.header()?);
        }
        self.pool.send(request, || self.connect()).await.map_err(|error| match error {
            PoolError::Connect(error) => error,
            PoolError::Closed => UpstreamError::Closed,
            PoolError::Failed(source) => UpstreamError::Exchange(source),
        })
    }

    /// The API server did not accept our token.
    pub fn credentials_refused(&self) {
        self.token.forget();
    }

    pub fn sweep(&self) {
        self.pool.sweep();
    }

    async fn connect(&self) -> Result<(Transport, Arc<Pool<Transport>>), UpstreamError> {
        let connected = timeout(CONNECT_TIMEOUT, self.connect_unbounded()).await;
        let late = |_| Err(UpstreamError::ConnectTimeout { address: self.authority.to_string() });
        Ok((connected.unwrap_or_else(late)?, Arc::clone(&self.pool)))
    }

    async fn connect_unbounded(&self) -> Result<Transport, UpstreamError> {
        let address = || self.authority.to_string();
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let https = self.scheme == Scheme::HTTPS;
        let port = self.authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        let tcp = TcpStream::connect((host, port))
            .await
            .and_then(|tcp| runtime::tcp::tune(&tcp).map(|()| tcp))
            .map_err(|source| UpstreamError::Connect { address: address(), source })?;
        if !https {
            return Ok(Socket::new(Either::Right(tcp)));
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| UpstreamError::Tls { address: address(), source: io::Error::other(e) })?;
        TlsConnector::from(self.ca.client_config()?)
            .connect(name, tcp)
            .await
            .map(|tls| Socket::new(Either::Left(Box::new(tls))))
            .map_err(|source| UpstreamError::Tls { address: address(), source })
    }
}
