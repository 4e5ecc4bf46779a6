//! A control plane that the agent should not trust: a gateway-link of its own is pointed at it.

use crate::Others;
use anyhow::{Context, Result, ensure};
use e2e::{
    side::CLUSTER,
    stage::Stage,
    wire::{Framing, Wire},
};
use lab::until;
use mux::{Incoming, Link, Role, Timed, Windows};
use std::{net::Ipv4Addr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

const SOON: Duration = Duration::from_secs(10);

pub async fn an_agent_survives_a_control_plane_that_breaks_the_rules(stage: &Stage) -> Result<()> {
    let others = Others::now(stage).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut spec = stage.side.gateway_link.spec().clone();
    spec.name = "hostile-gateway-link".to_owned();
    spec.env.insert("PIPEOPS_API_URL".to_owned(), format!("http://{}", listener.local_addr()?));
    spec.env.insert("PIPEOPS_SERVER_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
    spec.env.insert("PIPEOPS_PIPEOPS_RECONNECT_INITIAL".to_owned(), "100ms".to_owned());
    spec.env.insert("PIPEOPS_PIPEOPS_RECONNECT_MAX".to_owned(), "200ms".to_owned());
    let agent = stage.lab.add_process(spec);
    agent.start().await?;

    // A good link first, on which single streams are bad.
    let mut peer = Peer::accept(&listener).await?;
    peer.serves().await?;
    for (what, bytes) in [
        ("another version", b"\x09\x00\x02{}".to_vec()),
        ("no JSON", b"\x02\x00\x05hello".to_vec()),
        ("an unknown kind", header(r#"{"kind":"teleport","id":"x"}"#)),
        ("no id", header(r#"{"kind":"kube"}"#)),
        ("a tunnel to nowhere", header(r#"{"kind":"udp","id":"x"}"#)),
        ("a header longer than any", [b"\x02\xff\xff".as_slice(), &[b' '; 70_000]].concat()),
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an end within the header", b"\x02\x00\x20{".to_vec()),
    ] {
        let mut stream = peer.link.open().await?;
        // It may be reset while it is still being written.
        drop(stream.write_all(&bytes).await);
        drop(stream.flush().await);
        if what == "an end within the header" {
            stream.shutdown().await?;
        }
        let mut rest = Vec::new();
        let end = timeout(SOON, stream.read_to_end(&mut rest)).await.with_context(|| format!("{what}: still open"))?;
        ensure!(end.is_err() || rest.is_empty(), "{what}: answered with {:?}", String::from_utf8_lossy(&rest));
        peer.serves().await.with_context(|| format!("after a stream with {what}"))?;
    }
    // Messages that mean nothing to it.
    for text in
        [r#"{"type":"teleport","payload":{}}"#, "no JSON at all", r#"{"type":"gateway_hello","payload":7}"#, "[]"]
    {
        peer.link.send(text.to_owned()).await?;
        peer.serves().await.with_context(|| format!("after {text}"))?;
    }
    // A thousand streams that begin a header and say no more.
    let mut silent = Vec::new();
    for _ in 0..1000 {
        let mut stream = timeout(SOON, peer.link.open()).await.context("no more streams")??;
        stream.write_all(&[2]).await?;
        stream.flush().await?;
        silent.push(stream);
    }
    peer.serves().await.context("beside a thousand silent streams")?;
    drop(silent);
    drop(peer);

    // Then links that are bad as a whole: the agent comes back each time.
    let oversized = "x".repeat(5 << 20);
    for (what, message) in
        [("a message of 5 MiB", Message::text(oversized)), ("binary before hello", Message::binary(vec![7; 100]))]
    {
        let mut socket = accept(&listener).await.with_context(|| format!("before {what}"))?;
        // The agent may hang up in the middle.
        drop(futures::SinkExt::send(&mut socket, message).await);
        drop(socket);
        ensure!(agent.is_running(), "after {what} the agent has ended: {}", agent.log_tail(10));
    }
    let mut peer = Peer::accept(&listener).await.context("the agent does not come back")?;
    peer.serves().await?;
    drop(peer);
    // Registration is strict: an answer that cannot be read is said loudly, and not asked for again at once.
    let mut socket = accept(&listener).await.context("before what is no JSON")?;
    futures::SinkExt::send(&mut socket, Message::text("<html>")).await?;
    until("the agent to say what is wrong", SOON, || async {
        let log = agent.log_tail(5);
        ensure!(log.contains("refuses") && log.contains("<html>"), "{log}");
        Ok(())
    })
    .await?;
    ensure!(agent.is_running(), "the agent has ended: {}", agent.log_tail(10));
    agent.kill().await?;
    others.are_well(stage).await
}

fn header(json: &str) -> Vec<u8> {
    let length = u16::try_from(json.len()).unwrap_or_default();
    [&[2], length.to_be_bytes().as_slice(), json.as_bytes()].concat()
}

async fn accept(listener: &TcpListener) -> Result<WebSocketStream<Timed<TcpStream>>> {
    let (tcp, _) = timeout(SOON, listener.accept()).await.context("the agent does not dial")??;
    tcp.set_nodelay(true)?;
    Ok(tokio_tungstenite::accept_async(Timed::new(tcp)).await?)
}

/// The control plane's end of a good link.
struct Peer {
    link: Link,
    incoming: Incoming,
    _driving: JoinSet<()>,
}

impl Peer {
    async fn accept(listener: &TcpListener) -> Result<Self> {
        let socket = accept(listener).await?;
        let (link, incoming, driver) = mux::start(socket, Role::ControlPlane, mux::Config::default());
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            driver.await;
        });
        let mut peer = Self { link, incoming, _driving: driving };
        peer.hear("register").await?;
        let id = format!("00000000-0000-0000-0000-{:012}", CLUSTER.len());
        let success =
            format!(r#"{{"type":"register_success","payload":{{"cluster_id":"{id}","capabilities":["streams/2"]}}}}"#);
        peer.link.send(success).await?;
        peer.link
            .send(r#"{"type":"gateway_hello","payload":{"use_yamux":true,"capabilities":["streams/2"]}}"#.to_owned())
            .await?;
        peer.hear("gateway_hello_ack").await?;
        peer.link.start_streams(Windows::Tuned);
        Ok(peer)
    }

    async fn hear(&mut self, kind: &str) -> Result<()> {
        let wanted = format!("\"{kind}\"");
        timeout(SOON, async {
            loop {
                let frame = self.incoming.control.recv().await.context("the link ends")?;
                if frame.as_text().is_some_and(|text| text.contains(&wanted)) {
                    return Ok(());
                }
            }
        })
        .await
        .with_context(|| format!("no {kind}"))?
    }

    /// A request on a stream of its own is answered.
    async fn serves(&mut self) -> Result<()> {
        until("an answer on a good stream", SOON, || async {
            let mut stream = self.link.open().await?;
            let head = header(r#"{"kind":"kube","id":"good"}"#);
            let request = "GET /small HTTP/1.1\r\nhost: k\r\nx-pipeops-user: somebody\r\n\r\n";
            stream.write_all(&[head.as_slice(), request.as_bytes()].concat()).await?;
            let mut wire = Wire::new(stream);
            let head = timeout(SOON, wire.need_head()).await??;
            ensure!(head.status() == 200, "{}", head.first);
            wire.body(head.framing(Framing::Length(0))).await?;
            Ok(())
        })
        .await
    }
}
