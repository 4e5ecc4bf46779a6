//! proxy-executor: runs the requests that arrive on bus streams against the Kubernetes API server.
//!
//! ```text
//!   bus stream (HTTP/1.1) ─► Executor: identity, policy, headers ─► Upstream: pooled TLS connections ─► API server
//! ```
//!
//! It owns the cluster's side of a request: whose identity it runs under, what the owner allows, and this pod's own
//! credentials. It knows nothing of links or of the control plane. A stream carries requests one after the other;
//! when the stream is reset the API request behind it is dropped, and when the API response is cut so is the stream.

mod body;
mod credentials;
mod execute;
mod metrics;
mod options;
mod policy;
mod service;
mod upstream;

pub use options::{Kubernetes, Options, Rbac, RbacMode};
pub use service::run;
