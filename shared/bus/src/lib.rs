//! How the agent's services talk: typed request and reply, and byte streams, over NATS or inside one process.
//!
//! It owns the subjects and their types ([`subjects`]), who may use them, and the stream protocol. It knows nothing of
//! what goes through a stream, and a service does not know which bus it is on.
//!
//! ```text
//!  service ── Bus ──┬── request / serve      JSON of a type; always answered: reply, typed error, or fault
//!                   ├── open / listen        BusStream: bytes against credit, half-close, reset with a reason
//!                   └── status / stats
//!        NATS core (nats)                    or        one process (local)
//! ```
//!
//! **What a stream promises.** Every stream ends in exactly one way for each side: both directions complete, or a reset
//! that says why. NATS core may drop messages, so frames are numbered and a gap resets; a peer that is gone or frozen,
//! and a lost connection, reset within 2 s. What may be buffered is bounded by credit per stream and by a budget per
//! process; a reader that does not read stops only its own stream.

mod bus;
pub mod facts;
mod frame;
mod ledger;
mod local;
mod metrics;
mod nats;
mod options;
mod request;
pub mod routes;
mod service;
mod serving;
pub mod state;
mod stream;
pub mod subjects;

pub use bus::{Bus, Listener, Status};
pub use ledger::Stats;
pub use local::LocalBus;
pub use options::{ConnectError, Options};
pub use request::{REQUEST_TIMEOUT, Request, RequestError, ServeError};
pub use service::Service;
pub use serving::Serving;
pub use stream::{BusStream, OpenError, OpenHeader, StreamReset};
