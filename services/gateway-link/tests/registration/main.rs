//! A link from the dial on, as a control plane sees it that plays its part by hand.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod agent;
mod calls;
mod configured;
mod gateway;
mod keeper;
mod peer;
mod refused;
mod replicas;
mod tokens;
