//! What a stream costs the control plane: those of clients of a tunnel to one of the agents.

use crate::{
    link::{
        Row,
        load::{ANSWER, REQUEST, RESPONSE, SEND},
    },
    report::Report,
};
use anyhow::{Context, Result};
use lab::Lab;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{CONTROL_PLANE, count};

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A port of the control plane that leads to the agent of `cluster`.
pub(super) async fn tunnel(lab: &Lab, cluster: &str) -> Result<SocketAddr> {
    let said = lab.control_plane(&["tunnel", "create", "--cluster", cluster, "--tcp", "bench/load:1"]).await?;
    let port = said.split(" port ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let port = port.and_then(|port| port.parse().ok()).with_context(|| format!("no port: {said}"))?;
    let host = lab.url()?.trim_start_matches("https://").split(':').next().unwrap_or_default();
    Ok(SocketAddr::new(host.parse()?, port))
}

/// Each has carried one exchange and stands.
pub(super) async fn idle(
    port: SocketAddr,
    streams: usize,
    memory: impl AsyncFn() -> Result<f64>,
    report: &mut Report,
) -> Result<()> {
    let before = memory().await?;
    let mut open = Vec::new();
    for _ in 0..streams {
        let mut stream = TcpStream::connect(port).await?;
        stream.write_all(&[&[ANSWER][..], &[1; REQUEST]].concat()).await?;
        stream.read_exact(&mut [0; RESPONSE]).await?;
        open.push(stream);
    }
    let each = (memory().await? - before) / 1024.0 / count(streams)?;
    report.add(Row::IdleStream.name(), CONTROL_PLANE, "KiB", each);
    Ok(())
}

/// Each carries as much as it can, for as long as `window` is; the most that was seen counts.
pub(super) async fn busy(
    port: SocketAddr,
    streams: usize,
    window: Duration,
    memory: impl AsyncFn() -> Result<f64>,
    now: impl Fn() -> Result<u64>,
    report: &mut Report,
) -> Result<()> {
    let before = memory().await?;
    let mut reading = JoinSet::new();
    for _ in 0..streams {
        let mut stream = TcpStream::connect(port).await?;
        stream.write_all(&[SEND]).await?;
        reading.spawn(async move {
            let mut piece = vec![0; 16 * 1024];
            while stream.read(&mut piece).await? > 0 {}
            anyhow::bail!("a stream has ended")
        });
    }
    let (until, mut most) = (Instant::now() + window, 0);
    while Instant::now() < until {
        sleep(LOOK_EVERY).await;
        most = most.max(now()?);
        if let Some(ended) = reading.try_join_next() {
            ended??;
        }
    }
    let each = (most as f64 - before) / 1024.0 / count(streams)?;
    report.add(Row::BusyStream.name(), CONTROL_PLANE, "KiB", each);
    Ok(())
}
