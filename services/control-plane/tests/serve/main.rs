//! A control plane as it runs, seen from its clients' side.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

mod agents;
mod certificates;
mod compression;
mod configs;
mod control_plane;
mod linked;
mod older;
mod registration;
mod tokens;
mod tunnels;
mod web;
