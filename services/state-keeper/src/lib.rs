//! state-keeper: who this agent is, kept in the cluster it runs in.
//!
//! ```text
//!   bus: GetIdentity, SaveRegistration ─► Store ─► ConfigMap (agent_id, cluster_id, gateway_ws_url)
//!                                           └────► Secret    (cluster_token, cluster_cert_data)
//! ```
//!
//! It owns these two objects; names and keys are those of the existing agent, so that an upgrade keeps the identity.
//! Any number of replicas may write: every write names the version it was made from. What it needs of the cluster is
//! get and update on the two names, and create. It knows nothing of links or of the control plane's protocol.

mod access;
mod objects;
mod options;
mod record;
mod service;
mod store;

pub use options::{Agent, Kubernetes, Options, State};
pub use service::{run, run_on};
