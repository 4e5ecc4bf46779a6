//! gateway-link: the agent's outbound connection to the control plane.
//!
//! ```text
//!   dial ─► register ─► gateway_hello / _ack ─► link up ─┬─ heartbeat (own task)
//!     ▲                                                  └─ each stream: header ─► bus stream ─► bytes both ways
//!     └────────── backoff with jitter ◄── link lost ◄────┘
//! ```
//!
//! It owns the link, the registration that goes with it, and nothing of Kubernetes: no token is mounted in its pod, and
//! the bytes of a stream are copied without a look at them.

mod backoff;
mod dial;
mod forward;
mod heartbeat;
mod metrics;
mod options;
mod pump;
mod register;
mod service;
mod session;

pub use options::{Agent, Options, PipeOps, Reconnect, Tls};
pub use service::run;
