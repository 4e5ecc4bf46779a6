//! Small exchanges and bulk over one link on loopback, with the processor time that each end takes.
//!
//! `cargo run --release -p mux --example bench -- [small STREAMS | fresh STREAMS | bulk STREAMS | mixed STREAMS] [SECONDS]`
//!
//! Each end has a thread and a runtime of its own, as the services have. Without arguments: all rows.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a bench fails by panicking"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mux::{Config, Link, MuxStream, Role, Timed, Windows};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    task::JoinSet,
};
use tokio_tungstenite::{accept_async_with_config, client_async_with_config};

/// Of a typical small GET.
const REQUEST: usize = 500;
const RESPONSE: usize = 1500;

#[derive(Clone, Copy, PartialEq)]
enum Row {
    /// Request and response over and over on long-lived streams.
    Small,
    /// A stream for each exchange.
    Fresh,
    Bulk,
    /// `Small` on one stream beside bulk on the others.
    Mixed,
}

#[derive(Default)]
struct Tally {
    exchanges: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds = arguments.get(2).map_or(2, |text| text.parse().unwrap());
    let rows = match arguments.first().map(String::as_str) {
        None => vec![
            (Row::Small, 1),
            (Row::Small, 16),
            (Row::Small, 128),
            (Row::Fresh, 1),
            (Row::Fresh, 16),
            (Row::Bulk, 1),
            (Row::Bulk, 16),
            (Row::Mixed, 2),
            (Row::Mixed, 9),
        ],
        Some(name) => {
            let row = match name {
                "small" => Row::Small,
                "fresh" => Row::Fresh,
                "bulk" => Row::Bulk,
                _ => Row::Mixed,
            };
            vec![(row, arguments[1].parse().unwrap())]
        }
    };
    for (row, streams) in rows {
        run(row, streams, Duration::from_secs(seconds));
    }
}

fn run(row: Row, streams: usize, time: Duration) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let tally = Arc::new(Tally::default());

    let agent = thread::Builder::new().name("agent".to_owned()).spawn(move || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let socket = TcpStream::connect(address).await.unwrap();
            socket.set_nodelay(true).unwrap();
            let config = Config::default();
            let request = "ws://bench.test/";
            let (ws, _) =
                client_async_with_config(request, Timed::new(socket), Some(config.websocket())).await.unwrap();
            let (link, mut incoming, driver) = mux::start(ws, Role::Agent, config);
            link.start_streams(Windows::Tuned);
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                driver.await;
            });
            while let Some(stream) = incoming.streams.recv().await {
                tasks.spawn(serve(stream));
            }
        });
        processor_time()
    });
    let ours = tally.clone();
    let control_plane = thread::Builder::new().name("control-plane".to_owned()).spawn(move || {
        let (rate, latency) = Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (socket, _) = TcpListener::from_std(listener).unwrap().accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let config = Config::default();
            let ws = accept_async_with_config(Timed::new(socket), Some(config.websocket())).await.unwrap();
            let (link, _incoming, driver) = mux::start(ws, Role::ControlPlane, config);
            link.start_streams(Windows::Tuned);
            let driver = tokio::spawn(driver);
            let measured = load(row, streams, time, &link, &ours).await;
            link.close(mux::CloseCode::Normal, "done");
            driver.await.unwrap();
            measured
        });
        (rate, latency, processor_time())
    });
    let (elapsed, mut latencies, near) = control_plane.unwrap().join().unwrap();
    let far = agent.unwrap().join().unwrap();
    report(row, streams, elapsed, &tally, &mut latencies, near, far);
}

fn report(
    row: Row,
    streams: usize,
    elapsed: Duration,
    tally: &Tally,
    latencies: &mut [Duration],
    near: Duration,
    far: Duration,
) {
    let exchanges = tally.exchanges.load(Ordering::Relaxed) as f64;
    let mib = tally.bytes.load(Ordering::Relaxed) as f64 / (1 << 20) as f64;
    let seconds = elapsed.as_secs_f64();
    latencies.sort_unstable();
    let at = |percent: usize| {
        let index = latencies.len() * percent / 100;
        latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    };
    let name = match row {
        Row::Small => "small",
        Row::Fresh => "fresh",
        Row::Bulk => "bulk",
        Row::Mixed => "mixed",
    };
    print!("{name:>6} {streams:>4} streams: ");
    if row != Row::Bulk {
        print!("{:>8.0} exchanges/s  p50 {:>6.0} us  p99 {:>6.0} us  ", exchanges / seconds, at(50), at(99));
    }
    if mib > 1.0 {
        print!("{:>6.0} MiB/s  ", mib / seconds);
    }
    let per = if row == Row::Bulk { (mib / 1024.0, "ms/GiB", 1e3) } else { (exchanges, "us/exchange", 1e6) };
    println!(
        "cpu {:.1} + {:.1} {} (control plane + agent)",
        near.as_secs_f64() * per.2 / per.0,
        far.as_secs_f64() * per.2 / per.0,
        per.1
    );
}

/// Answers each request; a zero first byte asks for bulk instead.
async fn serve(mut stream: MuxStream) {
    let response = vec![1; RESPONSE];
    let mut got = 0;
    while let Ok(Some(chunk)) = stream.chunk().await {
        if got == 0 && chunk.first() == Some(&0) {
            let piece = vec![0; 64 * 1024];
            while stream.write_all(&piece).await.is_ok() {}
            return;
        }
        got += chunk.len();
        while got >= REQUEST {
            got -= REQUEST;
            if stream.write_all(&response).await.is_err() {
                return;
            }
        }
    }
}

async fn load(row: Row, streams: usize, time: Duration, link: &Link, tally: &Arc<Tally>) -> (Duration, Vec<Duration>) {
    let mut tasks = JoinSet::new();
    for i in 0..streams {
        let (link, tally) = (link.clone(), tally.clone());
        let bulk = row == Row::Bulk || row == Row::Mixed && i > 0;
        tasks.spawn(async move {
            match (bulk, row == Row::Fresh) {
                (true, _) => drain(&link, &tally).await,
                (false, true) => fresh(&link, &tally).await,
                (false, false) => small(link.open().await.unwrap(), &tally).await,
            }
        });
    }
    let start = Instant::now();
    tokio::time::sleep(time).await;
    tally.stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done.unwrap());
    }
    (start.elapsed(), latencies)
}

async fn small(mut stream: MuxStream, tally: &Tally) -> Vec<Duration> {
    let mut latencies = Vec::new();
    while !tally.stop.load(Ordering::Relaxed) {
        latencies.push(exchange(&mut stream, tally).await);
    }
    latencies
}

async fn fresh(link: &Link, tally: &Tally) -> Vec<Duration> {
    let mut latencies = Vec::new();
    while !tally.stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let mut stream = link.open().await.unwrap();
        exchange(&mut stream, tally).await;
        stream.shutdown().await.unwrap();
        latencies.push(start.elapsed());
    }
    latencies
}

async fn exchange(stream: &mut MuxStream, tally: &Tally) -> Duration {
    let start = Instant::now();
    stream.write_all(&[1; REQUEST]).await.unwrap();
    let mut got = 0;
    while got < RESPONSE {
        got += stream.chunk().await.unwrap().unwrap().len();
    }
    tally.exchanges.fetch_add(1, Ordering::Relaxed);
    start.elapsed()
}

async fn drain(link: &Link, tally: &Tally) -> Vec<Duration> {
    let mut stream = link.open().await.unwrap();
    stream.write_all(&[0]).await.unwrap();
    while !tally.stop.load(Ordering::Relaxed) {
        let n = stream.chunk().await.unwrap().unwrap().len();
        tally.bytes.fetch_add(n as u64, Ordering::Relaxed);
    }
    let _ = stream.read(&mut [0; 1]).await;
    Vec::new()
}

/// Of this thread so far.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}
