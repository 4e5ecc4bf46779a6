//! Chisel with TLS and reverse ports: its server listens for the client's sake, as a control plane does.

use super::{Ground, Peer, start};
use crate::client::Route;
use anyhow::{Context, Result};
use lab::{Health, free_ports};
use std::net::{Ipv4Addr, SocketAddr};

/// Starts it.
pub(crate) async fn chisel(ground: Ground<'_>) -> Result<Peer> {
    let [server_port] = free_ports()?;
    let certificate = ground.certificates.issue("chisel-server")?;
    let mut remotes = Vec::new();
    let mut routes = Vec::new();
    for port in ground.ports {
        let [local] = free_ports()?;
        remotes.push(format!("R:127.0.0.1:{local}:{port}"));
        routes.push(SocketAddr::from((Ipv4Addr::LOCALHOST, local)));
    }
    let mut datagrams = None;
    if let Some(port) = ground.datagrams {
        let [local] = free_ports()?;
        remotes.push(format!("R:127.0.0.1:{local}:{port}/udp"));
        datagrams = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, local)));
    }
    let (server, way) = ground.way(server_port).await?;
    let first = *routes.first().context("no port to carry")?;
    let mut client = vec![
        "client".to_owned(),
        "--max-retry-interval=500ms".to_owned(),
        format!("--tls-ca={}", ground.certificates.ca_file().display()),
        format!("https://{server}"),
    ];
    client.append(&mut remotes);
    let hops = vec![
        ground.process(
            "chisel-server",
            "chisel",
            vec![
                "server".to_owned(),
                "--host=127.0.0.1".to_owned(),
                format!("--port={server_port}"),
                "--reverse".to_owned(),
                format!("--tls-cert={}", certificate.cert_file.display()),
                format!("--tls-key={}", certificate.key_file.display()),
            ],
            Health::Http(format!("https://127.0.0.1:{server_port}/health")),
        )?,
        // The server listens there once the client is connected.
        ground.process("chisel-client", "chisel", client, Health::Tcp(first))?,
    ];
    start(&hops).await?;
    Ok(Peer { name: "chisel", hops, routes: routes.into_iter().map(Route::Tcp).collect(), datagrams, way })
}
