//! The connection to the control plane: whom it trusts, what it shows, and by which proxy it goes.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod extensions;
mod peers;
mod process;
mod proxies;
mod requests;
mod trust;

use std::time::Duration;

use gateway_link::{DialError, Dialer, PipeOps, Socket, Tls};
use peers::ControlPlane;
use protocol::Secret;

/// Settings for this control plane.
fn settings(scheme: &str, control_plane: &ControlPlane) -> PipeOps {
    PipeOps { api_url: format!("{scheme}://localhost:{}", control_plane.address.port()), ..PipeOps::default() }
}

fn trusting(tls: Tls, control_plane: &ControlPlane) -> Dialer {
    Dialer::new(&PipeOps { tls, ..settings("https", control_plane) }).unwrap()
}

async fn dial(dialer: &Dialer) -> Result<Socket, DialError> {
    let token = Secret::new("token");
    let dialing = dialer.dial(&token, mux::Config::default().websocket());
    tokio::time::timeout(Duration::from_secs(20), dialing).await.expect("an end")
}

/// What the log says of it.
async fn failure(dialer: &Dialer) -> String {
    runtime::error_text(&dial(dialer).await.expect_err("it was to fail"))
}
