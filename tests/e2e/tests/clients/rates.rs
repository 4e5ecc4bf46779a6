use crate::server::{Running, Servers, host, port, succeeds};
use anyhow::{Context, Result, ensure};
use lab::{Lab, Progress};
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc};
use tokio::process::Command;

/// Of one direction of TCP.
const BYTES: &str = "200M";
/// What is sent as datagrams, in bits a second, for two seconds.
const DATAGRAMS: &str = "8M";

pub async fn iperf3_measures_both_directions_over_tcp_and_udp(lab: Arc<Lab>) -> Result<()> {
    let package = lab::unpack_debian_package("iperf3", &Progress::slow_only()).await?;
    let libraries = package.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let program = package.join("usr/bin/iperf3");
    let servers = Servers::get()?;
    let folder = tempfile::tempdir()?;
    let mut server = Command::new(&program);
    server.args(["--server", "--bind", "127.0.0.1", "--port", &servers.iperf.to_string()]);
    server.env("LD_LIBRARY_PATH", &libraries);
    let _running = Running::start(&mut server, &folder.path().join("log"), servers.iperf).await?;
    port(&lab, "iperf-udp").await?;
    // iperf3 sends its datagrams to the port that it has its TCP connection to: two tunnels of one number.
    let [number] = lab::free_ports()?;
    for protocol in ["tcp", "udp"] {
        let target = format!("pipeops-forwards/iperf{}:{}", if protocol == "udp" { "-udp" } else { "" }, servers.iperf);
        let create = ["tunnel", "create", "--cluster", lab.cluster(), &format!("--{protocol}"), &target];
        lab.control_plane(&[&create[..], &["--port", &number.to_string()]].concat()).await?;
    }
    let address = SocketAddr::new(host(&lab)?, number);
    let run = async |args: &[&str]| -> Result<Value> {
        let mut client = Command::new(&program);
        client.args(["--client", &address.ip().to_string(), "--port", &address.port().to_string(), "--json"]);
        let said = succeeds(client.args(args).env("LD_LIBRARY_PATH", &libraries)).await?;
        serde_json::from_str(&said).with_context(|| said)
    };
    for direction in [&[][..], &["--reverse"], &["--parallel", "8"]] {
        let said = run(&[&["--bytes", BYTES], direction].concat()).await?;
        let bytes = |sum: &str| said.pointer(&format!("/end/{sum}/bytes")).and_then(Value::as_u64).unwrap_or(0);
        let (sent, received) = (bytes("sum_sent"), bytes("sum_received"));
        ensure!(sent >= 200 << 20 && received >= sent / 2, "{direction:?}: {sent} bytes, {received} of them came");
    }
    for direction in [&[][..], &["--reverse"]] {
        let datagrams = ["--udp", "--bitrate", DATAGRAMS, "--time", "2", "--length", "1200"];
        let said = run(&[&datagrams[..], direction].concat()).await?;
        let of = |what: &str| said.pointer(&format!("/end/sum/{what}"));
        let packets = of("packets").and_then(Value::as_u64).unwrap_or(0);
        let lost = of("lost_percent").and_then(Value::as_f64).unwrap_or(100.0);
        ensure!(packets > 1000 && lost < 5.0, "{direction:?}: {packets} datagrams, {lost} % of them lost");
    }
    Ok(())
}
