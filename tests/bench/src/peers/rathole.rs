//! rathole with Noise: its server listens for the client's sake.

use super::{Ground, Peer, start};
use crate::client::Route;
use anyhow::{Context, Result, ensure};
use lab::{Health, Parts, Progress, free_ports};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};
use tokio::process::Command;

/// Builds it when it is not there, and starts it.
pub(crate) async fn rathole(ground: Ground<'_>, progress: &Progress) -> Result<Peer> {
    let parts = Parts::only("rathole", progress).await?;
    let program = parts.path("rathole")?;
    let [private, public] = keys(program).await?;
    let [server_port] = free_ports()?;
    let (server, way) = ground.way(server_port).await?;
    let transport = "transport.type = \"noise\"\ntransport.tcp.nodelay = true\n";
    let mut server_text = format!(
        "[server]\nbind_addr = \"127.0.0.1:{server_port}\"\ndefault_token = \"bench\"\n{transport}\
         transport.noise.local_private_key = \"{private}\"\n"
    );
    let mut client_text = format!(
        "[client]\nremote_addr = \"{server}\"\ndefault_token = \"bench\"\n{transport}\
         transport.noise.remote_public_key = \"{public}\"\n"
    );
    let mut add = |kind: &str, target: SocketAddr| {
        let [local] = free_ports()?;
        let service = |side: &str, key: &str, address: SocketAddr| {
            format!("[{side}.services.{kind}-{local}]\ntype = \"{kind}\"\nnodelay = true\n{key} = \"{address}\"\n")
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, local));
        server_text.push_str(&service("server", "bind_addr", address));
        client_text.push_str(&service("client", "local_addr", target));
        anyhow::Ok(address)
    };
    let routes = ground.ports.iter().map(|port| add("tcp", *port)).collect::<Result<Vec<_>>>()?;
    let datagrams = ground.datagrams.map(|port| add("udp", port)).transpose()?;
    let first = *routes.first().context("no port to carry")?;
    let arguments = |side: &str, file: &Path| vec![format!("--{side}"), file.display().to_string()];
    let server_file = ground.write("rathole-server.toml", &server_text)?;
    let client_file = ground.write("rathole-client.toml", &client_text)?;
    let listens = Health::Tcp((Ipv4Addr::LOCALHOST, server_port).into());
    let hops = vec![
        ground.program("rathole-server", program, arguments("server", &server_file), listens)?,
        // The server listens there once the client is connected.
        ground.program("rathole-client", program, arguments("client", &client_file), Health::Tcp(first))?,
    ];
    start(&hops).await?;
    Ok(Peer { name: "rathole", hops, routes: routes.into_iter().map(Route::Tcp).collect(), datagrams, way })
}

/// A private key and its public one.
async fn keys(program: &Path) -> Result<[String; 2]> {
    let output =
        Command::new(program).arg("--genkey").kill_on_drop(true).output().await.context("cannot run rathole")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let keys: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.ends_with(':')).collect();
    ensure!(keys.len() == 2, "rathole --genkey gave {} keys", keys.len());
    let [private, public] = [0, 1].map(|at| keys.get(at).copied().unwrap_or_default().to_owned());
    Ok([private, public])
}
