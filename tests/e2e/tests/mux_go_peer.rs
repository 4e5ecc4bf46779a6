//! `mux` and the multiplexer of the existing agent, hashicorp/yamux in Go, understand each other: either end in either, in each role.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use deflate::Deflated;
use futures::future::try_join_all;
use lab::{Parts, Progress, until};
use mux::{CloseCode, Closed, Config, Control, Link, MuxStream, OpenError, Role, Streams, Timed, Windows};
use sha2::{Digest, Sha256};
use std::{
    io::ErrorKind,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async, client_async_with_config,
    tungstenite::{
        client::IntoClientRequest,
        handshake::server::{Request, Response},
        protocol::Role as Side,
    },
};

const SOON: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;
/// More than the 256 streams either end leaves unacknowledged.
const MANY: usize = 300;

type Socket = WebSocketStream<Deflated<Timed<TcpStream>>>;

/// Our end of a link, and the Go process that is the other.
struct Ours {
    link: Link,
    control: Control,
    driver: JoinHandle<Closed>,
    /// Serves the streams that the peer opens.
    serving: JoinSet<Result<()>>,
    _peer: Child,
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Ours {
    async fn start(role: Role, compressed: bool) -> Result<Self> {
        let parts = Parts::only("yamux-peer", &Progress::slow_only()).await?;
        let mut command = Command::new(parts.path("yamux-peer")?);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let config = Config { ping_interval: Duration::from_millis(100), ..Config::default() };
        let limit = compressed.then_some(config.max_message);
        let last = compressed.then_some("compressed");
        let (peer, socket) = match role {
            Role::Agent => {
                let mut peer = command.arg("control-plane").args(last).spawn()?;
                let stdout = peer.stdout.take().context("no stdout")?;
                let mut lines = BufReader::new(stdout).lines();
                let port = lines.next_line().await?.context("the peer does not listen")?;
                let tcp = TcpStream::connect(format!("127.0.0.1:{port}")).await?;
                (peer, dial(format!("ws://127.0.0.1:{port}/"), Timed::new(tcp), &config, limit).await?)
            }
            Role::ControlPlane => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let url = format!("ws://{}/", listener.local_addr()?);
                let peer = command.arg("agent").arg(url).args(last).spawn()?;
                let (tcp, _) = timeout(SOON, listener.accept()).await.context("the peer does not dial")??;
                (peer, accept(Timed::new(tcp), &config, limit).await?)
            }
        };
        ensure!(socket.get_ref().compresses() == compressed, "the ends do not agree about compression");
        let (link, incoming, driver) = mux::start(socket, role, config);
        // What the peers of such a link agree on: hashicorp/yamux sends frames as large as the window.
        link.start_streams(Windows::Fixed);
        let mut serving = JoinSet::new();
        serving.spawn(serve(incoming.streams));
        Ok(Self { link, control: incoming.control, driver: tokio::spawn(driver), serving, _peer: peer })
    }

    /// Has the Go end do something by itself.
    async fn tell(&mut self, command: &str) -> Result<()> {
        self.link.send(command.to_owned()).await?;
        let said = self.said().await.with_context(|| command.to_owned())?;
        ensure!(said == "ok", "{command}: the Go peer says: {said}");
        Ok(())
    }

    async fn said(&mut self) -> Result<String> {
        let frame = timeout(SOON, self.control.recv()).await.context("the Go peer says nothing")?;
        let frame = frame.context("the link has ended")?;
        Ok(frame.as_text().context("the Go peer speaks no text")?.to_owned())
    }

    async fn open(&self, request: &str) -> Result<MuxStream> {
        let mut stream = timeout(SOON, self.link.open()).await.context("no stream")??;
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        Ok(stream)
    }

    /// Sends bytes, ends that direction, and checks what comes back.
    async fn ask(&self, how: &str, size: usize) -> Result<()> {
        let mut stream = self.open(&format!("{how} {size}")).await?;
        let body = pattern(size);
        stream.write_all(&body).await?;
        stream.shutdown().await?;
        let mut got = Vec::new();
        timeout(SOON, stream.read_to_end(&mut got)).await.context("no end comes back")??;
        ensure!(
            got == [sum(&body).as_bytes(), b"\n", &body].concat(),
            "{} bytes came back, not the right ones",
            got.len()
        );
        Ok(())
    }

    async fn no_streams_left(&self) -> Result<()> {
        until("every stream to be gone", SOON, || {
            let open = self.link.stats().open_streams;
            std::future::ready(if open == 0 { Ok(()) } else { Err(format!("{open} are open")) })
        })
        .await
    }

    /// Ends the link; nothing that served the peer's streams may have failed.
    async fn end(mut self) -> Result<()> {
        self.no_streams_left().await?;
        self.link.close(CloseCode::Normal, "the test is over");
        timeout(SOON, &mut self.driver).await.context("the link does not end")??;
        while let Some(served) = self.serving.join_next().await {
            served??;
        }
        Ok(())
    }
}

/// As gateway-link does.
async fn dial(url: String, tcp: Timed<TcpStream>, config: &Config, limit: Option<usize>) -> Result<Socket> {
    let mut request = url.into_client_request()?;
    let tcp = if limit.is_some() { Deflated::offering(tcp) } else { Deflated::plain(tcp) };
    if limit.is_some() {
        request.headers_mut().insert("sec-websocket-extensions", deflate::OFFER);
    }
    let (mut socket, response) = client_async_with_config(request, tcp, Some(config.websocket())).await?;
    let accepted = deflate::accepted(response.headers(), limit.is_some())?;
    socket.get_mut().settle(limit.filter(|_| accepted))?;
    Ok(socket)
}

/// As the control plane does.
#[expect(clippy::result_large_err, reason = "tungstenite's")]
async fn accept(tcp: Timed<TcpStream>, config: &Config, limit: Option<usize>) -> Result<Socket> {
    let mut accepted = None;
    let socket = accept_hdr_async(tcp, |request: &Request, mut response: Response| {
        accepted = limit.and_then(|_| deflate::accept(request.headers()));
        if let Some(answer) = &accepted {
            response.headers_mut().insert("sec-websocket-extensions", answer.clone());
        }
        Ok(response)
    });
    let tcp = socket.await?.into_inner();
    let tcp = match limit.filter(|_| accepted.is_some()) {
        Some(limit) => Deflated::accepted(tcp, Bytes::new(), limit),
        None => Deflated::plain(tcp),
    };
    Ok(WebSocketStream::from_raw_socket(tcp, Side::Server, Some(config.websocket())).await)
}

/// What the Go end does with the streams it accepts.
async fn serve(mut streams: Streams) -> Result<()> {
    let mut serving = JoinSet::new();
    while let Some(stream) = streams.recv().await {
        serving.spawn(answer(stream));
    }
    while let Some(served) = serving.join_next().await {
        served??;
    }
    Ok(())
}

async fn answer(stream: MuxStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    if line == "drop\n" {
        return Ok(());
    }
    let size = line.trim_end().strip_prefix("sum ").with_context(|| format!("a stream asks for {line:?}"))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
    stream.write_all(format!("{}\n", hex(&hash.finalize())).as_bytes()).await?;
    stream.write_all(&pattern(size.parse()?)).await?;
    stream.shutdown().await?;
    Ok(())
}

fn pattern(size: usize) -> Vec<u8> {
    (0..=250).cycle().take(size).collect()
}

fn sum(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn everything(role: Role, compressed: bool) -> Result<()> {
    let mut ours = Ours::start(role, compressed).await?;
    // Long texts, there and back: it repeats what it does not know.
    let word = "word".repeat(50_000);
    ours.link.send(format!("{word} 1 0")).await?;
    let said = ours.said().await.context("a long text")?;
    ensure!(said.contains(&word), "{} bytes came back, not the right ones", said.len());
    // A mebibyte each way, in streams of either end.
    ours.ask("sum", MIB).await.context("our stream")?;
    ours.tell(&format!("ask 1 {MIB}")).await.context("the peer's stream")?;

    // Many at once: more than may wait for an acknowledgement.
    try_join_all((0..MANY).map(|_| ours.ask("sum", 4096))).await.context("many streams of ours")?;
    ours.tell(&format!("ask {MANY} 4096")).await.context("many streams of the peer")?;
    ours.tell(&format!("ask 8 {MIB}")).await.context("large streams of the peer at once")?;

    // A slow reader holds up its own stream alone.
    let others = async {
        let started = Instant::now();
        try_join_all((0..8).map(|_| ours.ask("sum", 64 << 10))).await?;
        anyhow::Ok(started.elapsed())
    };
    let slow = async {
        let started = Instant::now();
        ours.ask("slow", 4 * MIB).await?;
        anyhow::Ok(started.elapsed())
    };
    let (slow, others) = tokio::try_join!(slow, others)?;
    ensure!(others < slow, "others took {others:?} beside a slow reader's {slow:?}");

    // Either end gives up: the other learns of it.
    ours.tell("be-dropped 1 0").await.context("a stream of the peer, dropped by us")?;
    drop(ours.open("be-dropped 0").await?);
    let said = ours.said().await.context("our stream, dropped by us")?;
    ensure!(said == "connection reset", "our stream, dropped by us: {said}");
    let mut left = ours.open("leave 0").await?;
    let mut rest = Vec::new();
    timeout(SOON, left.read_to_end(&mut rest)).await.context("the peer's half-close does not come")??;
    ensure!(rest.is_empty(), "the peer said {rest:?}");
    let refused = timeout(SOON, async { while left.write_all(&[0; 4096]).await.is_ok() {} }).await;
    ensure!(refused.is_ok(), "a stream that the peer has given up takes everything");
    match left.write_all(b"x").await {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => bail!("a stream that the peer has given up: {other:?}"),
    }
    drop(left);

    // Signs of life on both levels, and the announced end.
    ours.tell("ping 1 0").await.context("yamux ping")?;
    ensure!(ours.link.stats().rtt.is_some(), "no WebSocket ping was answered");
    ours.no_streams_left().await?;
    ours.tell("go-away 1 0").await?;
    let refused = until("the announced end", SOON, || async {
        match ours.link.open().await {
            Err(error) => Ok(error),
            Ok(_) => Err("streams still open"),
        }
    })
    .await?;
    ensure!(matches!(refused, OpenError::GoingAway), "{refused}");
    ours.end().await
}

#[tokio::test]
async fn our_agent_end_understands_a_control_plane_in_go() -> Result<()> {
    everything(Role::Agent, false).await
}

#[tokio::test]
async fn our_control_plane_end_understands_an_agent_in_go() -> Result<()> {
    everything(Role::ControlPlane, false).await
}

#[tokio::test]
async fn our_agent_end_understands_a_control_plane_in_go_that_compresses() -> Result<()> {
    everything(Role::Agent, true).await
}

#[tokio::test]
async fn our_control_plane_end_understands_an_agent_in_go_that_compresses() -> Result<()> {
    everything(Role::ControlPlane, true).await
}
