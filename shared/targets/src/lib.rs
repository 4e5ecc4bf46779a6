//! Services of the cluster as targets: which of them the control plane may have reached, and where they are.
//!
//! ```text
//!   Target ── Access: allow, deny ──► Names: service.namespace.svc.<domain> ──► addresses
//! ```
//!
//! It decides and resolves; what is spoken with the Service is for whoever asked. It knows nothing of links and buses.

mod access;
mod names;
mod pattern;

pub use access::{Access, Forbidden};
pub use names::{Names, Unreachable};
pub use pattern::{ParsePatternError, Pattern};
