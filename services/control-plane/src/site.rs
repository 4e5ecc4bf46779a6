//! What answers the requests of a listener's connections.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use duplex::Socket;
use exchange::{BodyError, Incoming, Malformed, UpgradeSlot, Upgraded};
use http::{Request, Response};
use http_body_util::Either;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::stay::Stay;

/// A request's body: over HTTP/1.1, or over HTTP/2.
pub type RequestBody = Either<Incoming, hyper::body::Incoming>;

/// Boxed: the state of TLS is large, and each future that a connection passes through keeps a place for it.
pub type Stream = tokio_util::either::Either<Box<TlsStream<TcpStream>>, TcpStream>;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// None: it was gone at once.
    pub address: Option<SocketAddr>,
    pub tls: bool,
    /// It has shown a certificate that is trusted.
    pub certified: bool,
    pub stay: Arc<Stay>,
}

pub trait Site: Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static;
    /// What a connection becomes after a 101.
    type Upgrade: Send + 'static;

    /// Answers what is no proper request.
    const REFUSAL: fn(Malformed) -> Response<Vec<u8>>;

    /// `slot` is absent on HTTP/2, which has no upgrades.
    fn answer(
        &self,
        request: Request<RequestBody>,
        client: &Client,
        slot: Option<&UpgradeSlot<Self::Upgrade>>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Serves what a connection has become, to its end or shortly after `cut`.
    fn upgraded(
        &self,
        client: Upgraded<Socket<Stream>>,
        upgrade: Self::Upgrade,
        cut: &CancellationToken,
    ) -> impl Future<Output = ()> + Send;

    /// Counts a connection until it is dropped.
    fn connection(&self) -> impl Send + 'static;

    fn handshake_failed(&self);
}
