//! Ports of the control plane that lead to Services.

use crate::{
    forwards::{BLOCK, block, echo},
    prepare::{self, SOON},
};
use anyhow::{Context, Result, ensure};
use lab::{Lab, until};
use std::{io::ErrorKind, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

const CONNECTIONS: usize = 100;
/// A gibibyte each way, twice on one connection.
const LARGE: usize = 1 << 30;
const TIMES: usize = 2;
/// The largest datagram that UDP has.
const LARGEST: usize = 65_507;

/// The tunnel's port, for the Service `echo` of the namespace.
async fn tunnel(lab: &Lab, protocol: &str, namespace: &str) -> Result<SocketAddr> {
    let target = format!("{namespace}/echo:7000");
    let create = ["tunnel", "create", "--cluster", lab.cluster(), &format!("--{protocol}"), &target];
    let said = lab.control_plane(&create).await?;
    let port = said.split(" port ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let port: u16 = port.and_then(|port| port.parse().ok()).with_context(|| format!("no port: {said}"))?;
    let host = lab.url()?.trim_start_matches("https://").split(':').next().context("no host")?;
    Ok(SocketAddr::new(host.parse()?, port))
}

async fn echoes(lab: &Lab, namespace: &str) -> Result<SocketAddr> {
    lab.create_namespace(namespace).await?;
    prepare::echo(lab, namespace).await?;
    service(lab, namespace, "TCP").await?;
    let port = tunnel(lab, "tcp", namespace).await?;
    // The node learns of a Service's pods a moment after they are ready.
    until("the Service to have its pod", SOON, || async { echo(TcpStream::connect(port).await?, 0, 1).await }).await?;
    Ok(port)
}

async fn service(lab: &Lab, namespace: &str, protocol: &str) -> Result<()> {
    let service = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"echo"},"spec":{"selector":{"app":"echo"},
        "ports":[{"port":7000,"protocol":"PROTOCOL"}]}}"#;
    let service = service.replace("PROTOCOL", protocol);
    lab.admin().stdout_with_input(&["create", "-n", namespace, "-f", "-"], &service).await?;
    Ok(())
}

pub async fn many_clients_of_a_service_keep_their_bytes_apart(lab: Arc<Lab>) -> Result<()> {
    let port = echoes(&lab, "many-tunnels").await?;
    let mut connections = JoinSet::new();
    for connection in 0..CONNECTIONS {
        connections.spawn(async move { echo(TcpStream::connect(port).await?, connection, 8).await });
    }
    while let Some(ended) = connections.join_next().await {
        ended.context("a connection's task ended early")??;
    }
    Ok(())
}

pub async fn a_gibibyte_goes_to_a_service_and_back_twice(lab: Arc<Lab>) -> Result<()> {
    let port = echoes(&lab, "large-tunnels").await?;
    echo(TcpStream::connect(port).await?, 0, TIMES * LARGE / BLOCK).await
}

/// It may be before a client knows that it is connected.
async fn is_reset(port: SocketAddr) -> Result<()> {
    let silent = async { TcpStream::connect(port).await?.read(&mut [0; 1]).await };
    let error = timeout(SOON, silent).await.context("nothing")?.err().context("an end")?;
    ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

pub async fn a_tunnel_ends_each_direction_by_itself_and_goes_with_its_pod(lab: Arc<Lab>) -> Result<()> {
    let namespace = "tunnel-ends";
    let port = echoes(&lab, namespace).await?;
    let mut client = TcpStream::connect(port).await?;
    client.write_all(&block(1, 1)).await?;
    client.shutdown().await?;
    let mut answer = Vec::new();
    timeout(SOON, client.read_to_end(&mut answer)).await.context("no end after half a close")??;
    ensure!(answer == block(1, 1), "{} bytes", answer.len());

    let mut client = TcpStream::connect(port).await?;
    client.write_all(b"x").await?;
    client.read_exact(&mut [0; 1]).await?;
    lab.admin().stdout(&["delete", "pod", "echo", "-n", namespace, "--grace-period=0", "--force"]).await?;
    let read = timeout(SOON, client.read(&mut [0; 1])).await.context("it goes on without its pod")?;
    ensure!(read.is_err() || read.as_ref().is_ok_and(|length| *length == 0), "{read:?}");
    // Without a pod nobody listens behind the Service.
    is_reset(port).await?;
    Ok(())
}

pub async fn what_the_owner_does_not_allow_is_reset_and_the_log_says_why(lab: Arc<Lab>) -> Result<()> {
    let create = ["tunnel", "create", "--cluster", lab.cluster(), "--tcp", "kube-system/kube-dns:53"];
    let said = lab.control_plane(&create).await?;
    let port = said.split(" port ").nth(1).and_then(|rest| rest.split_whitespace().next()).context("no port")?;
    let host = lab.url()?.trim_start_matches("https://").split(':').next().context("no host")?;
    is_reset(format!("{host}:{port}").parse()?).await?;
    until("the log to say why", SOON, || async {
        let log = std::fs::read_to_string(lab.process("control-plane")?.log())?;
        let line = log.lines().find(|line| line.contains("is not served") && line.contains("kube-system/kube-dns:53"));
        let line = line.with_context(|| format!("the log does not say so:\n{log}"))?;
        ensure!(line.contains("kube-system/kube-dns:53 may not be reached"), "{line}");
        Ok(())
    })
    .await
}

/// The pod `echo` for datagrams: socat answers each with itself.
pub async fn datagrams_keep_their_bounds_up_to_the_largest(lab: Arc<Lab>) -> Result<()> {
    let namespace = "datagrams";
    lab.create_namespace(namespace).await?;
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"echo","labels":{"app":"echo"}},"spec":{"containers":[{
        "name":"echo","image":"lab.local/tools:1","args":["socat","-b70000","-T60","UDP-RECVFROM:7000,fork","EXEC:cat,pipes"]}]}}"#;
    prepare::create(&lab, namespace, "pod/echo", pod).await?;
    service(&lab, namespace, "UDP").await?;
    let port = tunnel(&lab, "udp", namespace).await?;
    until("the Service to have its pod", SOON, || async {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(port).await?;
        socket.send(b"x").await?;
        timeout(SOON / 60, socket.recv(&mut [0])).await.context("no answer")??;
        anyhow::Ok(())
    })
    .await?;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(port).await?;
        clients.push(socket);
    }
    let mut buffer = vec![0; LARGEST + 1];
    // One datagram at a time: the pod's socket has no room for ten of the largest.
    for length in [1, 512, 1_400, 9_000, 32_768, LARGEST] {
        for (client, socket) in (0_u8..).zip(&clients) {
            let datagram = vec![client; length];
            socket.send(&datagram).await?;
            let answer = timeout(SOON, socket.recv(&mut buffer)).await;
            let answer = answer.with_context(|| format!("{length} bytes of client {client}: no answer"))??;
            ensure!(buffer.get(..answer) == Some(&datagram[..]), "{length} bytes: {answer} came back");
        }
    }
    Ok(())
}

pub async fn a_service_is_told_who_its_client_is(lab: Arc<Lab>) -> Result<()> {
    let namespace = "told-clients";
    echoes(&lab, namespace).await?;
    let target = format!("{namespace}/echo:7000");
    let create =
        ["tunnel", "create", "--cluster", lab.cluster(), "--tcp", &target, "--name", "told", "--proxy-protocol"];
    let said = lab.control_plane(&create).await?;
    let port = said.split(" port ").nth(1).and_then(|rest| rest.split_whitespace().next()).context("no port")?;
    let host = lab.url()?.trim_start_matches("https://").split(':').next().context("no host")?;
    let mut client = TcpStream::connect(format!("{host}:{port}")).await?;
    // The Service gives back what it is told.
    let mut told = [0; 28];
    timeout(SOON, client.read_exact(&mut told)).await.context("the Service is told nothing")??;
    let (client, server) = (client.local_addr()?, client.peer_addr()?);
    let octets = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let ports = [client.port().to_be_bytes(), server.port().to_be_bytes()].concat();
    let wanted = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec(), octets(client), octets(server), ports].concat();
    ensure!(told[..] == wanted, "{told:?}, not {wanted:?}");
    Ok(())
}
