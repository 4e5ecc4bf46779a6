//! Datagrams of one client over a byte stream: both ends of a UDP tunnel.
//!
//! ```text
//!   client ─► Port ─► queue ─► framed ─► stream ═══ link ═══ stream ─► queue ─► Port ─► Service
//! ```
//!
//! What cannot be carried in time is dropped, the oldest first, as on any network; nothing waits without a bound. It knows
//! nothing of how the stream came about, nor of sockets but that they take and give datagrams.

mod idle;
mod queue;
mod relay;

pub use idle::Idle;
pub use queue::{DatagramQueue, poll_recv};
pub use relay::{DatagramRelay, Framing, Moved, Port};
