//! Users that the control plane should not trust.

use crate::Others;
use anyhow::{Context, Result, ensure};
use e2e::{Protocol, client::Tls, gauges::Look, stage::Stage, wire::Wire};
use futures::future::try_join_all;
use lab::until;
use std::time::{Duration, Instant};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

const SOON: Duration = Duration::from_secs(5);
/// Each kind of dawdler, this many.
const MANY: usize = 50;
/// The control plane gives a TLS handshake 10 s, a request's head 30 s and a registration 30 s.
const SHOWN_OUT: Duration = Duration::from_secs(40);

pub async fn a_header_of_a_mebibyte_is_refused(stage: &Stage) -> Result<()> {
    let others = Others::now(stage).await?;
    let target = stage.plain()?;
    let large = format!("x-large: {}", "v".repeat(1 << 20));
    let mut wire = target.connect().await?;
    let head = target.head("GET", "/small", &[&large]);
    // The answer may come before all is sent, and the connection go with it.
    let (mut read, mut write) = tokio::io::split(wire.io);
    let sending = tokio::spawn(async move { write.write_all(&head).await });
    let mut answer = Wire::new(tokio::io::join(&mut read, tokio::io::sink()));
    let status = timeout(SOON, answer.need_head()).await.context("no answer to a header of 1 MiB")?;
    ensure!(status.as_ref().is_ok_and(|head| head.status() == 431), "{status:?}");
    sending.abort();
    others.are_well(stage).await.context("HTTP/1.1")?;

    let client = target.http(Protocol::Http2)?;
    let refused = client.get(target.url("/small")).header("x-large", "v".repeat(1 << 20)).timeout(SOON).send().await;
    // So much more than is allowed ends the connection too, and the reason may be lost with it.
    let is_refusal = match &refused {
        Ok(response) => response.status() == 431,
        Err(error) => error.is_request() && !error.is_timeout() && !error.is_connect(),
    };
    ensure!(is_refusal, "{refused:?}");
    others.are_well(stage).await.context("HTTP/2")?;

    // A long path, a hundred headers, and a head of 60 KiB: unusual, but within the rules, and then they arrive.
    let many: Vec<String> = (0..60).map(|index| format!("x-{index}: {}", "v".repeat(1000))).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    wire = target.begin("GET", &format!("/small?long={}", "l".repeat(8000)), &many).await?;
    let head = timeout(SOON, wire.need_head()).await??;
    ensure!(head.status() == 200, "{}", head.first);
    Ok(())
}

pub async fn whoever_dawdles_is_shown_out_and_holds_up_nobody(stage: &Stage) -> Result<()> {
    let others = Others::now(stage).await?;
    let target = stage.plain()?;
    let control_plane = stage.process("control-plane")?;
    let gauge = "pipeops_control_plane_connections";
    let before = Look::at(&control_plane).await?.metric(gauge);
    let mute: Vec<TcpStream> = try_join_all((0..MANY).map(|_| target.tcp())).await?;
    let mut slow: Vec<Tls> = try_join_all((0..MANY).map(|_| target.connect())).await?;
    let head = target.head("GET", "/small", &[]);
    let begun = Instant::now();
    for (index, byte) in head.iter().take(60).enumerate() {
        for wire in &mut slow {
            wire.send(&[*byte]).await?;
        }
        if index % 10 == 0 {
            others.are_well(stage).await?;
        }
    }
    let open = Look::at(&control_plane).await?.metric(gauge);
    ensure!(open >= before + 90.0, "only {open} connections are open: the dawdlers were not there at all");
    let gone = until("the dawdlers to be shown out", SHOWN_OUT, || async {
        let now = Look::at(&control_plane).await?.metric(gauge);
        ensure!(now <= before + 4.0, "{now} connections, {before} before");
        Ok(())
    });
    gone.await?;
    println!("dawdlers are out after {:?}", begun.elapsed());
    drop((mute, slow));
    others.are_well(stage).await
}
