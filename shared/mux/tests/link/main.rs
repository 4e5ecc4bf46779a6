//! The link as its two users see it, over real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its own arithmetic is small"
)]

mod ends;
mod far;
mod harness;
mod hostile;
mod load;
mod resets;
mod rust_yamux;
mod streams;
