//! Ports of the control plane for addresses that are no Services: `tunnel.forwards`.

use anyhow::{Context, Result, ensure};
use lab::{Lab, Options, until};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const SOON: Duration = Duration::from_secs(30);

/// Where the control plane has its port, by gateway-link's log.
async fn port(lab: &Lab, name: &str) -> Result<SocketAddr> {
    let log = lab.process("gateway-link")?.log().to_owned();
    let tunnel = format!("forward-{name}");
    until("the forward to have a port", SOON, || async {
        let text = std::fs::read_to_string(&log)?;
        let line = text.lines().rfind(|line| line.contains(&tunnel) && line.contains("has a port for"));
        let at = line.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let at = at.as_ref().and_then(|line| line.get("at")).and_then(serde_json::Value::as_str);
        anyhow::Ok(at.with_context(|| format!("gateway-link does not say where it is:\n{text}"))?.parse()?)
    })
    .await
}

#[tokio::test]
async fn a_forward_of_the_settings_is_a_port_of_the_control_plane() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let forward = |key: &str, value: &str| format!("agent.tunnel.forwards[0].{key}={value}");
    let values = vec![forward("name", "db"), forward("local_addr", &format!("localhost:{}", address.port()))];
    let lab = Lab::start(Options { values, ..Options::default() }).await?;
    let port = port(&lab, "db").await?;
    let mut client = TcpStream::connect(port).await?;
    client.write_all(b"select 1").await?;
    let (mut backend, _) = timeout(SOON, listener.accept()).await.context("nobody comes")??;
    let mut said = [0; 8];
    backend.read_exact(&mut said).await?;
    ensure!(&said == b"select 1", "{said:?}");
    backend.write_all(b"1").await?;
    drop(backend);
    let mut answer = Vec::new();
    timeout(SOON, client.read_to_end(&mut answer)).await.context("no end")??;
    ensure!(answer == b"1", "{answer:?}");

    let listed = lab.control_plane(&["tunnel", "list"]).await?;
    ensure!(listed.contains("forward-db") && listed.contains(&port.port().to_string()), "{listed}");

    // One that the settings had before.
    let folder = lab.folder().join("control-plane/tunnels");
    let entry = std::fs::read_dir(&folder)?.next().context("no tunnel is stored")??.path();
    let old = entry.to_str().context("no text")?.replace("forward-db", "forward-old");
    std::fs::write(old, std::fs::read_to_string(&entry)?.replace("forward-db", "forward-old"))?;
    let lists = |old: bool| {
        let lab = &lab;
        async move {
            let listed = lab.control_plane(&["tunnel", "list"]).await?;
            ensure!(listed.contains("forward-old") == old && listed.contains("forward-db"), "{listed}");
            anyhow::Ok(())
        }
    };
    until("the old forward to be there", SOON, || lists(true)).await?;
    lab.process("gateway-link")?.restart().await?;
    until("the old forward to be gone", SOON, || lists(false)).await?;
    lab.stop().await
}
