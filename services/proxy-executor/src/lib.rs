//! proxy-executor: runs the requests that arrive on bus streams against the Kubernetes API server.
//!
//! ```text
//!   bus stream (HTTP/1.1) ─► Executor: identity, policy, headers ─► Upstream: pooled TLS connections ─► API server
//!                                         ▲
//!   Limits: the owner's settings, and the control plane's as state-keeper has them
//! ```
//!
//! Streams of kind `http` carry the same for the HTTP server of a Service, which is reached by its DNS name (`services`).
//!
//! It owns the cluster's side of a request: whose identity it runs under, what the owner allows, and this pod's own
//! credentials. It knows nothing of links or of the control plane. A stream carries requests one after the other;
//! when the stream is reset the API request behind it is dropped, and when the API response is cut so is the stream.

mod answers;
mod body;
mod config;
mod credentials;
mod execute;
mod facts;
mod gathered;
mod metrics;
mod options;
mod policy;
mod service;
mod services;
mod upstream;

pub use options::{InvalidPolicy, Kubernetes, Options, Policy, Rbac, RbacMode, Services};
pub use service::{run, run_on};
