//! Ports of 127.0.0.1 from the operating system.

use anyhow::{Context, Result};
use std::net::TcpListener;

/// `N` different ports that were free a moment ago. They are asked for together, so that one caller never gets the same port twice.
/// Linux hands ports of the other parity to outgoing connections first, so a port stays free in practice while its process restarts.
///
/// # Errors
/// When the system gives none.
pub fn free<const N: usize>() -> Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot get a free port of 127.0.0.1")?;
        *port = listener.local_addr().context("cannot read the port the system gave")?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
