//! route-syncer between an API server, a gateway-link and a state-keeper that do what the test says. Time is the test's.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod api;
mod syncing;
mod world;
