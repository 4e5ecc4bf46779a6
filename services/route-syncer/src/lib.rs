//! route-syncer: tells the control plane what of this cluster is to be reached through it, and the cluster what became of that.
//!
//! ```text
//!   API server ─► reflectors ─► rules: the cluster's routes, and why others are none
//!                                 │ whenever they change                         ▲ Kubernetes Events on each Ingress
//!                                 ▼                                              │
//!              leader: the whole set ─► bus ─► gateway-link ─► control plane ─► what became of each
//! ```
//!
//! Level-triggered: the whole set goes out when it changes, after each new link, and now and then; nothing is remembered that a
//! restart would lose. It has no token for the control plane and no way out: gateway-link makes the calls. Of the cluster it
//! reads Ingresses, IngressClasses and Services, and writes nothing but Events.

mod cluster;
mod controller;
mod events;
mod lease;
mod links;
mod metrics;
mod options;
mod rules;
mod service;
mod sync;

pub use options::{Options, Routes};
pub use service::{run, run_on};
