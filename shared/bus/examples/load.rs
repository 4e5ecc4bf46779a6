//! What streams over NATS cost: round trips, bulk and opens between two processes, each on one thread, with the CPU
//! time of each side. `cargo run --release -p bus --example load -- nats://127.0.0.1:4222 [small|bulk|open|idle ...]`

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measurement, not a service"
)]

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bus::{Bus, BusStream, OpenHeader, Options, Service};
use bytes::Bytes;
use protocol::StreamKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| Options::default().url);
    let rows = arguments.collect::<Vec<_>>();
    if rows.iter().any(|row| row == "serve") {
        return serve(url).await;
    }
    let mut peer =
        Command::new(std::env::current_exe().unwrap()).args([&url, "serve"]).stdout(Stdio::null()).spawn().unwrap();
    let bus = Bus::connect(&Options { url, ..Options::default() }, Service::GatewayLink).await.unwrap();
    drop(open(&bus, "echo", b"").await);
    let wanted = |row: &str| rows.is_empty() || rows.iter().any(|name| name == row);
    if wanted("small") {
        for streams in [1, 16, 128] {
            small(&bus, &peer, streams).await;
        }
    }
    if wanted("bulk") {
        for streams in [1, 8] {
            bulk(&bus, &peer, "source", streams).await;
            bulk(&bus, &peer, "sink", streams).await;
        }
    }
    if wanted("open") {
        opens(&bus, &peer).await;
    }
    if wanted("idle") {
        idle(&bus, &peer).await;
    }
    println!("{:?}", bus.stats());
    peer.kill().unwrap();
    peer.wait().unwrap();
}

const BULK: usize = 256 << 20;

async fn serve(url: String) {
    let bus = Bus::connect(&Options { url, ..Options::default() }, Service::ProxyExecutor).await.unwrap();
    let mut listener = bus.listen(StreamKind::Kube).await.unwrap();
    let mut streams = JoinSet::new();
    while let Some((header, mut stream)) = listener.accept().await {
        streams.spawn(async move {
            match header.target.as_deref() {
                Some("source") => {
                    let piece = vec![1; 64 << 10];
                    for _ in 0..BULK / piece.len() {
                        stream.write_all(&piece).await?;
                    }
                    stream.shutdown().await
                }
                Some("sink") => {
                    while stream.chunk().await?.is_some() {}
                    stream.shutdown().await
                }
                _ => {
                    while let Some(bytes) = stream.chunk().await? {
                        stream.write_all(&bytes).await?;
                        stream.flush().await?;
                    }
                    stream.shutdown().await
                }
            }
        });
        while streams.try_join_next().is_some() {}
    }
}

async fn open(bus: &Bus, target: &str, first: &'static [u8]) -> BusStream {
    loop {
        let header = OpenHeader { id: "load".to_owned(), target: Some(target.to_owned()), traceparent: None };
        match bus.open(StreamKind::Kube, header, Bytes::from_static(first)).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// User and system time of a process so far.
fn cpu(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().collect::<Vec<_>>();
    let ticks = |index: usize| fields.get(index).unwrap().parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

struct Meter<'a> {
    begun: Instant,
    cpu: [f64; 2],
    peer: &'a Child,
}

impl<'a> Meter<'a> {
    fn start(peer: &'a Child) -> Self {
        Self { begun: Instant::now(), cpu: [cpu(std::process::id()), cpu(peer.id())], peer }
    }

    fn report(self, what: &str, count: f64, unit: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let used = [cpu(std::process::id()) - self.cpu[0], cpu(self.peer.id()) - self.cpu[1]];
        let each = used.map(|used| used * 1e6 / count);
        println!(
            "{what:<16} {:>10.0} {unit}/s   cpu us/{unit}: opener {:.2}, acceptor {:.2}",
            count / seconds,
            each[0],
            each[1]
        );
    }
}

async fn small(bus: &Bus, peer: &Child, streams: usize) {
    let meter = Meter::start(peer);
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..streams {
        let mut stream = open(bus, "echo", b"").await;
        workers.spawn(async move {
            let mut bytes = [1; 500];
            let mut count = 0_u32;
            while begun.elapsed() < Duration::from_secs(3) {
                stream.write_all(&bytes).await.unwrap();
                stream.flush().await.unwrap();
                stream.read_exact(&mut bytes).await.unwrap();
                count += 1;
            }
            count
        });
    }
    let mut count = 0;
    while let Some(worker) = workers.join_next().await {
        count += worker.unwrap();
    }
    meter.report(&format!("small x{streams}"), count.into(), "round-trip");
}

async fn bulk(bus: &Bus, peer: &Child, target: &str, streams: usize) {
    let meter = Meter::start(peer);
    let mut workers = JoinSet::new();
    for _ in 0..streams {
        let mut stream = open(bus, target, b"").await;
        let sends = target == "sink";
        workers.spawn(async move {
            if sends {
                let piece = vec![1; 64 << 10];
                for _ in 0..BULK / piece.len() {
                    stream.write_all(&piece).await.unwrap();
                }
                stream.shutdown().await.unwrap();
            }
            while stream.chunk().await.unwrap().is_some() {}
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    meter.report(&format!("{target} x{streams}"), (streams * (BULK >> 20)) as f64, "MiB");
}

async fn opens(bus: &Bus, peer: &Child) {
    const COUNT: u32 = 20_000;
    let meter = Meter::start(peer);
    let mut workers = JoinSet::new();
    for _ in 0..16 {
        let bus = bus.clone();
        workers.spawn(async move {
            let mut all = Vec::new();
            for _ in 0..COUNT / 16 {
                let mut stream = open(&bus, "echo", b"hello").await;
                stream.shutdown().await.unwrap();
                all.clear();
                stream.read_to_end(&mut all).await.unwrap();
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    meter.report("open x16", COUNT.into(), "stream");
}

/// Bytes of memory in use by a process.
fn resident(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

async fn idle(bus: &Bus, peer: &Child) {
    const COUNT: u32 = 2000;
    let both = || [std::process::id(), peer.id()].map(resident);
    let before = both();
    let mut streams = Vec::new();
    for _ in 0..COUNT {
        let mut stream = open(bus, "echo", b"hello").await;
        let mut back = [0; 5];
        stream.read_exact(&mut back).await.unwrap();
        streams.push(stream);
    }
    let after = both();
    let each = [0, 1].map(|side| (after[side] - before[side]) / f64::from(COUNT));
    println!(
        "idle x{COUNT}: {:.0} and {:.0} bytes a stream, {:.1} and {:.1} MiB in all",
        each[0],
        each[1],
        after[0] / 1048576.0,
        after[1] / 1048576.0
    );
}
