//! What a stream costs the gateway-link while nothing happens on it; alone in its binary, and the agent's end alone in
//! a process of its own, so that nothing else counts.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../streams/harness.rs"]
mod harness;
#[path = "../../../../shared/bus/tests/contract/server.rs"]
#[allow(dead_code, clippy::indexing_slicing, reason = "the bus's own tests use all of it")]
mod server;

use std::process::{Child, Command};
use std::time::Duration;

use bus::{Bus, BusStream, Options, Service, Status};
use protocol::StreamKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use harness::{ControlPlane, agent, eventually, soon};
use server::Server;

const LINK: &str = "GATEWAY_LINK_TEST_LINK";
const BUS: &str = "GATEWAY_LINK_TEST_BUS";
const STREAMS: usize = 2000;
/// Bytes of memory that one idle stream may cost.
const LIMIT: usize = 4096;

async fn connect(url: String, service: Service) -> Bus {
    let bus = Bus::connect(&Options { url, ..Options::default() }, service).await.unwrap();
    let mut status = bus.status();
    soon("the bus", status.wait_for(|status| *status == Status::Connected)).await.unwrap();
    bus
}

/// The agent's process; the test without its environment does nothing.
#[tokio::test]
async fn agent_process() {
    let (Ok(link), Ok(url)) = (std::env::var(LINK), std::env::var(BUS)) else { return };
    let bus = connect(url, Service::GatewayLink).await;
    agent(TcpStream::connect(link).await.unwrap(), bus, targets::Names::table([])).await;
}

struct Agent(Child);

impl Agent {
    /// Resident memory that is its own, bytes.
    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers as an API server begins to answer a watch, and then says nothing more.
async fn watch(mut stream: BusStream) {
    let mut request = [0; 600];
    stream.read_exact(&mut request).await.unwrap();
    stream.write_all(&[b'x'; 400]).await.unwrap();
    stream.flush().await.unwrap();
    let _ = stream.read(&mut request).await;
}

#[tokio::test]
async fn an_idle_stream_costs_little() {
    let nats = Server::start(None).await;
    let executor = connect(nats.url(), Service::ProxyExecutor).await;
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut streams = JoinSet::new();
        while let Some((_, stream)) = listener.accept().await {
            streams.spawn(watch(stream));
        }
    });
    let links = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "agent_process", "--nocapture"]);
    command.env(LINK, links.local_addr().unwrap().to_string()).env(BUS, nats.url());
    let agent = Agent(command.spawn().unwrap());
    let control_plane = ControlPlane::accept(soon("the agent", links.accept()).await.unwrap().0).await;

    let open = async |count: usize| {
        let mut open = Vec::new();
        for _ in 0..count {
            let mut stream = control_plane.stream(&[b'r'; 600]).await;
            let mut answer = [0; 400];
            soon("the answer", stream.read_exact(&mut answer)).await.unwrap();
            open.push(stream);
        }
        open
    };
    // What is made once is made.
    drop(open(50).await);
    eventually(Duration::from_secs(20), "the first streams to go", || match control_plane.link.stats().open_streams {
        0 => Ok(()),
        open => Err(open),
    })
    .await;
    let before = agent.resident();
    let idle = open(STREAMS).await;
    let each = agent.resident().saturating_sub(before) / STREAMS;
    println!("{each} bytes for each idle stream");
    assert!(each <= LIMIT, "{each} bytes for each of {STREAMS} idle streams");
    drop(idle);
}
