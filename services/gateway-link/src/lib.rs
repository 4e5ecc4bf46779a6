//! gateway-link: the agent's outbound connection to the control plane.
//!
//! ```text
//!   dial ─► register ─► gateway_hello / _ack ─► link up ─┬─ heartbeat (own task)
//!     ▲                                                  ├─ each stream: header ─► bus stream, or Service ─► bytes both ways
//!     └────────── backoff with jitter ◄── link lost ◄────┴─ proxied: requests and tunnels that are messages, the same ways
//! ```
//!
//! It owns the link, the registration that goes with it, and nothing of Kubernetes: no token is mounted in its pod, and
//! the bytes of a stream are carried without a look at them.

mod calls;
mod configuration;
mod credentials;
mod dial;
mod facts;
mod forward;
mod heartbeat;
mod lease;
mod metrics;
mod options;
mod proxied;
mod refusal;
mod register;
mod service;
mod session;
mod state;
mod tunnel;

pub use dial::{DialError, Dialer, Socket};
pub use forward::Forwarder;
pub use metrics::Metrics;
pub use options::{Agent, Link, Options, PipeOps, Proxied, Reconnect, TcpTunnels, Tls, Tunnels, UdpTunnels};
pub use service::{run, run_on};
pub use tunnel::{Forwards, Tunnels as TunnelDialer};
