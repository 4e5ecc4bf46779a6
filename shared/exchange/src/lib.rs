//! HTTP/1.1 exchanges over any byte stream: one request, one streamed response, or an upgrade.
//!
//! Both ends of the proxy path need the same three things, over different transports (TLS to the API server, a
//! link stream, a bus stream, a client's socket):
//!
//! ```text
//!   serve()  ── Request ──►  service  ── Connection::send ──►  upstream
//!      ▲                                     │ Reply::Response(body)   streamed, then back into the Pool
//!      └──────────── bytes ── relay ◄────────┘ Reply::Upgraded(io)     101: raw bytes both ways
//! ```
//!
//! There is no task behind a [`Connection`]: whoever waits for the response, or reads its body, also drives the
//! connection. So dropping the response at any point drops the transport, which is the cancellation; and a request
//! costs no task switch. Nothing here knows about clusters, links or buses, and nothing has a timeout.

mod connection;
mod observed;
mod pool;
mod relay;
mod serve;
mod upload;

pub use connection::{Body, Connection, Reply, SendError, Upgraded};
pub use observed::{Observed, Observer};
pub use pool::{Pool, PoolError, PoolLimits};
pub use relay::{Relayed, relay};
pub use serve::{UpgradeSlot, serve};

/// What a body's error must convert to; hyper's own bound, spelled once.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a response body broke off.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BodyError(pub BoxError);
