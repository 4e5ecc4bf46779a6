//! The whole of the published protocol, from its control plane's side: what a user of one would notice.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod agent;
mod backend;
mod bodies;
mod bounds;
mod control_plane;
#[path = "../streams/harness.rs"]
#[allow(dead_code, reason = "the streams' own tests use all of it")]
mod harness;
mod metrics;
mod nats;
mod requests;
#[path = "../../../../shared/bus/tests/contract/server.rs"]
#[allow(dead_code, reason = "the bus's own tests use all of it")]
mod server;
mod sockets;
mod tunnels;

use std::net::SocketAddr;

use agent::Settings;
use backend::Backend;
use control_plane::ControlPlane;

/// A control plane, and the API server of its cluster.
async fn cluster() -> (ControlPlane, Backend) {
    cluster_with(&[], Settings::default()).await
}

async fn cluster_with(services: &[(&str, SocketAddr)], settings: Settings) -> (ControlPlane, Backend) {
    let api_server = Backend::start().await;
    (ControlPlane::start(api_server.address, services, settings).await, api_server)
}

/// Requests to the API server bring a token.
const TOKEN: &str = r#""headers":{"Authorization":"Bearer kubernetes"}"#;
const STREAMED: &str = r#""supports_response_streaming":true"#;
