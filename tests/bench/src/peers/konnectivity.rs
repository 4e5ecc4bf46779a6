//! Konnectivity as Kubernetes' API server uses it: HTTP CONNECT over a Unix socket in front, gRPC with client certificates between
//! server and agent.

use super::{Ground, Peer, start};
use crate::client::Route;
use anyhow::Result;
use lab::{Health, free_ports};

/// Starts it.
pub(crate) async fn konnectivity(ground: Ground<'_>) -> Result<Peer> {
    let [agent_port, server_admin, server_health, agent_admin, agent_health] = free_ports()?;
    let server = ground.certificates.issue("konnectivity-server")?;
    let agent = ground.certificates.issue("konnectivity-agent")?;
    let ca = ground.certificates.ca_file().display();
    let socket = ground.lab.folder().join("konnectivity.sock");
    let health = |port: u16| Health::Http(format!("http://127.0.0.1:{port}/readyz"));
    let hops = vec![
        ground.process(
            "konnectivity-server",
            "konnectivity-server",
            vec![
                "--mode=http-connect".to_owned(),
                format!("--uds-name={}", socket.display()),
                "--server-port=0".to_owned(),
                "--agent-bind-address=127.0.0.1".to_owned(),
                format!("--agent-port={agent_port}"),
                format!("--cluster-cert={}", server.cert_file.display()),
                format!("--cluster-key={}", server.key_file.display()),
                format!("--cluster-ca-cert={ca}"),
                format!("--admin-port={server_admin}"),
                "--health-bind-address=127.0.0.1".to_owned(),
                format!("--health-port={server_health}"),
                // Its default logs every connection.
                "--v=0".to_owned(),
            ],
            health(server_health),
        )?,
        ground.process(
            "konnectivity-agent",
            "konnectivity-agent",
            vec![
                "--proxy-server-host=127.0.0.1".to_owned(),
                format!("--proxy-server-port={agent_port}"),
                format!("--agent-cert={}", agent.cert_file.display()),
                format!("--agent-key={}", agent.key_file.display()),
                format!("--ca-cert={ca}"),
                format!("--admin-server-port={agent_admin}"),
                "--health-server-host=127.0.0.1".to_owned(),
                format!("--health-server-port={agent_health}"),
                "--v=0".to_owned(),
            ],
            health(agent_health),
        )?,
    ];
    start(&hops).await?;
    let route = |port: &std::net::SocketAddr| Route::Connect { socket: socket.clone(), authority: port.to_string() };
    Ok(Peer {
        name: "konnectivity",
        hops,
        routes: ground.ports.iter().map(route).collect(),
        datagrams: None,
        way: None,
    })
}
