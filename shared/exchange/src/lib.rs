//! HTTP/1.1 exchanges over any byte stream: one request, one streamed response, or an upgrade (RFC 9112).
//!
//! Both ends of the proxy path need the same three things, over different transports (TLS to the API server, a
//! link stream, a bus stream, a client's socket):
//!
//! ```text
//!   serve()  ── Request ──►  service  ── Connection::send ──►  upstream
//!      ▲                                     │ Reply::Response(body)   streamed, then back into the Pool
//!      └────────── duplex::relay ◄───────────┘ Reply::Upgraded(io)     101: raw bytes both ways
//! ```
//!
//! There is no task behind a [`Connection`]: whoever waits for the response, or reads its body, also drives the
//! connection. So dropping the response at any point drops the transport, which is the cancellation; and a request
//! costs no task switch. Bytes are handed on as they came, and an exchange in which nothing happens holds no buffer:
//! that is why this is not hyper, which keeps two buffers and a channel for each connection. Nothing here knows about
//! clusters, links or buses.
//!
//! Messages that could be understood in two ways are refused, never repaired: both lengths given, a length twice with
//! different values, an unknown transfer coding.

mod body;
mod connection;
mod decode;
mod encode;
mod error;
mod head;
mod incoming;
mod observed;
mod output;
mod pool;
mod sending;
mod serve;
mod upgrade;

pub use body::Body;
pub use connection::{Connection, Reply, SendError};
pub use error::{Error, Malformed};
pub use head::MAX_HEADERS;
pub use incoming::Incoming;
pub use observed::{Observed, Observer};
pub use pool::{Pool, PoolError, PoolLimits};
pub use serve::{Settings, serve};
pub use upgrade::{UpgradeSlot, Upgraded};

/// What a body's error must convert to.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a response body broke off.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BodyError(pub BoxError);
