//! One WebSocket that carries JSON text messages and one yamux session; both ends of the link use it.
//!
//! ```text
//!  Link::send ──────► text queue ──┐                        ┌──► Incoming::control
//!                                  ├── WebSocketStream<S> ──┤
//!  MuxStream writes ──► output ────┘      Driver (one task) └──► MuxStream reads, Incoming::streams
//! ```
//!
//! The driver is the only task that touches the socket. Text goes out before bulk, which is text that carries what users
//! send, and both before stream data; streams take turns by 16 KiB frames, and the reader never waits for a consumer: what
//! a stream may buffer is bounded by its yamux window, what all may buffer by [`Unread`], and a queue that its consumer
//! leaves full ends the link with a close code that says so. Only where the peer's text is bulk, too, and its consumer
//! waits for nobody, the reader lets more of it wait in the socket.
//!
//! yamux is spoken here and not by a library: what a stream sends is copied once, into the message that carries it; what it
//! receives is a part of the message that brought it; opening one asks no task; and an end, an abort and a go-away stay
//! what they are, which the libraries mix up.
//!
//! This crate knows nothing of what the text messages or the stream headers mean.

mod accept;
mod budget;
mod closed;
mod closing;
mod config;
mod driver;
mod frame;
mod link;
mod liveness;
mod metrics;
mod output;
mod session;
mod signals;
mod state;
mod stats;
mod stream;
mod table;
mod timed;
mod unread;

pub use accept::{Control, ControlFrame, Incoming, Streams};
pub use budget::{Budget, Held};
pub use closed::{Closed, OpenError};
pub use config::{Config, Role, Windows};
pub use driver::{Driver, start};
pub use link::Link;
pub use metrics::LinkMetrics;
pub use stats::Stats;
pub use stream::MuxStream;
pub use timed::{Pace, Timed};
pub use tokio_tungstenite::tungstenite::{Utf8Bytes, protocol::frame::coding::CloseCode};
pub use unread::Unread;
