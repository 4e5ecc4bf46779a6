//! `kubectl port-forward`.

use crate::{
    older,
    prepare::{self, SOON},
};
use anyhow::{Context, Result, bail, ensure};
use e2e::normalise;
use lab::{Forward, Lab, Tool};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

const CONNECTIONS: usize = 100;
const LARGE: usize = 256 << 20;
pub const BLOCK: usize = 64 << 10;

/// Bytes that are not those of another connection or another place.
pub fn block(connection: usize, number: usize) -> Vec<u8> {
    let seed = format!("{connection}-{number};");
    seed.bytes().cycle().take(BLOCK).collect()
}

/// Sends and reads back `blocks` blocks.
pub async fn echo(mut stream: TcpStream, connection: usize, blocks: usize) -> Result<()> {
    let (mut read, mut write) = stream.split();
    let send = async {
        for number in 0..blocks {
            write.write_all(&block(connection, number)).await?;
        }
        anyhow::Ok(())
    };
    let receive = async {
        let mut got = vec![0; BLOCK];
        for number in 0..blocks {
            let read = read.read_exact(&mut got).await;
            read.with_context(|| format!("connection {connection}, block {number}"))?;
            ensure!(got == block(connection, number), "connection {connection}: block {number} differs");
        }
        anyhow::Ok(())
    };
    tokio::try_join!(send, receive)?;
    Ok(())
}

async fn echoes(lab: &Lab, namespace: &str) -> Result<()> {
    lab.create_namespace(namespace).await?;
    prepare::echo(lab, namespace).await
}

pub async fn many_connections_at_once_keep_their_bytes_apart(lab: Arc<Lab>) -> Result<()> {
    echoes(&lab, "many-forwards").await?;
    let forward = Forward::to(lab.proxied()?, "many-forwards", "echo", 7000).await?;
    let mut connections = JoinSet::new();
    for connection in 0..CONNECTIONS {
        connections.spawn(echo(forward.connect().await?, connection, 8));
    }
    while let Some(ended) = connections.join_next().await {
        ended.context("a connection's task ended early")??;
    }
    Ok(())
}

/// Where nothing listens; what kubectl says of it, without what differs from one run to the next.
async fn refused(tool: &Tool, namespace: &str, flags: &[&str]) -> Result<String> {
    let forward = Forward::with(flags, tool, namespace, "echo", 7001).await?;
    let mut stream = forward.connect().await?;
    let mut rest = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut rest)).await.context("no end of a connection to nothing")?;
    ensure!(read.is_err() || rest.is_empty(), "{rest:?}");
    let port = forward.port().to_string();
    let (status, stderr) = forward.end(SOON).await?;
    let stderr = normalise(&stderr).replace(&port, "<port>");
    Ok(format!("{:?} {stderr}", status.code()))
}

/// SPDY within a WebSocket is what kubectl takes first, and SPDY alone what it had before.
pub async fn every_kubectl_forwards_alike_over_every_transport(lab: Arc<Lab>) -> Result<()> {
    let namespace = "transports";
    echoes(&lab, namespace).await?;
    let older = older::kubectl().await?;
    let (direct, proxied) = (lab.direct(), lab.proxied()?);
    for [straight, through] in
        [[direct.clone(), proxied.clone()], [direct.with_program(&older), proxied.with_program(&older)]]
    {
        for (websockets, method) in [("true", "GET"), ("false", "POST")] {
            let [straight, through] =
                [&straight, &through].map(|tool| tool.clone().with_env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets));
            let forward = Forward::to(&through, namespace, "echo", 7000).await?;
            for connection in 0..5 {
                echo(forward.connect().await?, connection, 4).await?;
            }
            drop(forward);
            prepare::switched_once(&refused(&through, namespace, &["-v=6"]).await?, "portforward", method)?;
            let straight = refused(&straight, namespace, &[]).await?;
            let through = refused(&through, namespace, &[]).await?;
            ensure!(straight == through, "straight {straight}\nthrough the agent {through}");
            ensure!(through.contains("refused"), "{through}");
        }
    }
    Ok(())
}

pub async fn large_bodies_arrive_whole_in_both_directions(lab: Arc<Lab>) -> Result<()> {
    echoes(&lab, "large-forwards").await?;
    let forward = Forward::to(lab.proxied()?, "large-forwards", "echo", 7000).await?;
    echo(forward.connect().await?, 0, LARGE / BLOCK).await
}

/// containerd gives the pod a second for the rest of its answer and does not tell it of the half that is closed.
pub async fn a_half_closed_connection_gets_the_rest_of_its_answer(lab: Arc<Lab>) -> Result<()> {
    echoes(&lab, "half-closed").await?;
    for (tool, way) in [(lab.direct(), "straight"), (lab.proxied()?, "through the agent")] {
        let forward = Forward::to(tool, "half-closed", "echo", 7000).await?;
        let mut stream = forward.connect().await?;
        stream.write_all(&block(1, 1)).await?;
        let mut answer = vec![0; BLOCK / 2];
        timeout(SOON, stream.read_exact(&mut answer)).await??;
        stream.shutdown().await?;
        let read = timeout(SOON, stream.read_to_end(&mut answer)).await;
        read.with_context(|| format!("{way}: no end after half a close"))??;
        ensure!(answer == block(1, 1), "{way}: {} bytes", answer.len());
    }
    Ok(())
}

pub async fn a_forward_ends_with_its_pod(lab: Arc<Lab>) -> Result<()> {
    echoes(&lab, "forward-ends").await?;
    let mut ends = Vec::new();
    let mut forwards = Vec::new();
    for tool in [lab.direct(), lab.proxied()?] {
        let forward = Forward::to(tool, "forward-ends", "echo", 7000).await?;
        let mut stream = forward.connect().await?;
        stream.write_all(b"x").await?;
        stream.read_exact(&mut [0; 1]).await?;
        forwards.push((forward, stream));
    }
    lab.admin().stdout(&["delete", "pod", "echo", "-n", "forward-ends", "--now"]).await?;
    for (forward, mut stream) in forwards {
        let mut rest = Vec::new();
        match timeout(SOON, stream.read_to_end(&mut rest)).await {
            Err(_) => bail!("a connection to a pod that is gone stays open"),
            Ok(_) => ensure!(rest.is_empty(), "{rest:?}"),
        }
        // kubectl notices when it is asked for the next connection.
        drop(forward.connect().await);
        let (status, stderr) = forward.end(Duration::from_secs(30)).await?;
        let last = stderr.lines().last().unwrap_or_default().to_owned();
        ends.push((status.code(), last));
    }
    let [straight, through] = ends.as_slice() else { bail!("{ends:?}") };
    ensure!(straight == through && straight.0 == Some(1), "straight {straight:?}, through the agent {through:?}");
    Ok(())
}
