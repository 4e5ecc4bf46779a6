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

/// What one connection may hold in memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Largest head of a request, in either version of HTTP.
    pub head: u32,
    /// What requests of HTTP/2 may have waiting to be taken: each of them, and all together.
    pub window: u32,
    pub windows: u32,
    /// What responses of HTTP/2 may have waiting for a connection that is slow, besides a piece of 16 KiB each.
    pub send_buffer: usize,
    /// Requests of HTTP/2 at once.
    pub streams: u32,
}

pub trait Site: Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static;
    /// What a connection becomes after a 101.
    type Upgrade: Send + 'static;

    /// Answers what is no proper request.
    const REFUSAL: fn(Malformed) -> Response<Vec<u8>>;

    const ROOM: Room;

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

    /// Whether connections may be passed through by the name that they ask for.
    fn passes_through(&self) -> bool {
        false
    }

    /// Serves a connection that nobody has read anything of, if one for that name is passed through; gives it back if not.
    fn pass_through(&self, tcp: TcpStream, _name: &str) -> impl Future<Output = Option<TcpStream>> + Send {
        std::future::ready(Some(tcp))
    }

    /// Counts a connection until it is dropped.
    fn connection(&self) -> impl Send + 'static;

    fn handshake_failed(&self);
}
