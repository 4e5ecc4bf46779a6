//! What a process built on the runtime does, seen from outside: its exit code, its logs, its HTTP server, its spans.
//! The process is `examples/driven.rs`, which takes commands on standard input.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod collector;
mod config;
mod driver;
mod probes;
mod shutdown;
mod traces;
