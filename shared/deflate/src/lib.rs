//! permessage-deflate (RFC 7692) for WebSockets whose library has no extensions: a layer between it and the connection.
//!
//! ```text
//!  tungstenite ◄── frames without RSV1 ── Deflated<S> ◄── frames, some with RSV1 ── S (TLS, TCP)
//!              ── frames ──────────────►             ── long texts smaller, RSV1 ──►
//! ```
//!
//! Neither end keeps anything from one message to the next (`no_context_takeover`, both ways), so a link on which nothing
//! happens costs no memory. What is not compressed passes through as it comes: nothing of it is gathered, and without the
//! extension nothing is even looked at.
//!
//! This crate knows the WebSocket's frames and the header field that negotiates; not what the messages mean, nor who reads
//! them.

mod answer;
mod frame;
mod negotiate;
mod reader;
mod socket;
mod writer;

pub use negotiate::{BadAnswer, OFFER, accept, accepted};
pub use reader::Violation;
pub use socket::{Deflated, NoHead};
