//! state-keeper: who this agent is, kept in the cluster it runs in.
//!
//! ```text
//!   bus ─► Store ──► Storage ─┬─► Objects: ConfigMap (agent_id, cluster_id, gateway_ws_url, cluster_config)
//!            └► Leases ──┘    │            Secret    (cluster_token, cluster_cert_data, link_token, …)
//!                             │            Lease     pipeops-agent-<name>
//!                             └─► StateFile: the same in one encrypted file, leases in memory
//! ```
//!
//! It owns what lies there; names and keys are those of the existing agent, so that an upgrade keeps the identity.
//! In a cluster any number of replicas may write: every write names the version it was made from. What it needs of
//! the cluster is get and update on these names, and create. A file has one process. It knows nothing of links or of
//! the control plane's protocol.

mod access;
#[cfg(test)]
mod fake;
mod file;
mod key;
mod leases;
mod objects;
mod options;
mod record;
mod service;
mod storage;
mod store;

pub use options::{Agent, Kubernetes, Options, State};
pub use service::{run, run_on};
