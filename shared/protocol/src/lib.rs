//! What goes over the link: control messages, stream headers and the HTTP headers that carry a request's identity.
//!
//! No I/O and no async: bytes in, types out. Everything parsed here may come from a hostile peer, so every parser is
//! total (an error, never a panic), bounded in what it accepts and allocates, and covered by property tests.
//!
//! ```text
//!  text frame    Envelope ── AgentMessage | ControlMessage          (envelope, message)
//!  yamux stream  StreamHeader v1 | v2, then bytes                   (stream)
//!  kube stream   HTTP/1.1 with User, request id, traceparent        (identity, trace, hop)
//!  our own errors metav1.Status                                     (status)
//! ```
//!
//! It must not know how a link is dialled, which bus is used, or what a service does with a message.

pub mod capability;
pub mod config;
pub mod endpoint;
pub mod envelope;
pub mod hop;
pub mod id;
pub mod identity;
pub mod mask;
pub mod message;
pub mod route;
pub mod secret;
pub mod status;
pub mod stream;
pub mod trace;
pub mod tunnel;

pub use config::{ClusterConfig, ConfigAck};
pub use envelope::{Envelope, ParseError, RequestId};
pub use id::{AgentId, ClusterId, InvalidId, StreamId, TunnelId};
pub use identity::{IdentityError, User};
pub use mask::mask_json;
pub use message::{AgentMessage, ControlMessage, RegisterSuccess, RegistrationError};
pub use secret::Secret;
pub use status::Status;
pub use stream::{HeaderError, HttpTarget, StreamAnswer, StreamHeader, StreamKind, Target};
pub use trace::TraceParent;
pub use tunnel::Tunnel;
