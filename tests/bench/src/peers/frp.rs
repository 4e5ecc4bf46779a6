//! frp with TLS and its multiplexer, as it comes: its server listens for the client's sake.

use super::{Ground, Peer, start};
use crate::client::Route;
use anyhow::{Context, Result};
use lab::{Health, free_ports};
use std::net::{Ipv4Addr, SocketAddr};

/// Starts it.
pub(crate) async fn frp(ground: Ground<'_>) -> Result<Peer> {
    let [server_port] = free_ports()?;
    let certificate = ground.certificates.issue("frp-server")?;
    let (server, way) = ground.way(server_port).await?;
    let (cert, key) = (certificate.cert_file.display(), certificate.key_file.display());
    let server_file = ground.write(
        "frps.toml",
        &format!(
            "bindAddr = \"127.0.0.1\"\nproxyBindAddr = \"127.0.0.1\"\nbindPort = {server_port}\nlog.level = \"warn\"\n\
             [transport.tls]\nforce = true\ncertFile = \"{cert}\"\nkeyFile = \"{key}\"\n"
        ),
    )?;
    let mut client = format!(
        "serverAddr = \"{}\"\nserverPort = {}\nloginFailExit = false\nlog.level = \"warn\"\n\
         [transport.tls]\nenable = true\ntrustedCaFile = \"{}\"\n",
        server.ip(),
        server.port(),
        ground.certificates.ca_file().display()
    );
    let mut add = |kind: &str, target: SocketAddr| {
        let [local] = free_ports()?;
        client.push_str(&format!(
            "[[proxies]]\nname = \"{kind}-{local}\"\ntype = \"{kind}\"\nlocalIP = \"{}\"\nlocalPort = {}\nremotePort = {local}\n",
            target.ip(),
            target.port()
        ));
        anyhow::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, local)))
    };
    let routes = ground.ports.iter().map(|port| add("tcp", *port)).collect::<Result<Vec<_>>>()?;
    let datagrams = ground.datagrams.map(|port| add("udp", port)).transpose()?;
    let client_file = ground.write("frpc.toml", &client)?;
    let first = *routes.first().context("no port to carry")?;
    let arguments = |file: &std::path::Path| vec!["-c".to_owned(), file.display().to_string()];
    let listens = Health::Tcp((Ipv4Addr::LOCALHOST, server_port).into());
    let hops = vec![
        ground.process("frp-server", "frps", arguments(&server_file), listens)?,
        // The server listens there once the client is connected.
        ground.process("frp-client", "frpc", arguments(&client_file), Health::Tcp(first))?,
    ];
    start(&hops).await?;
    Ok(Peer { name: "frp", hops, routes: routes.into_iter().map(Route::Tcp).collect(), datagrams, way })
}
