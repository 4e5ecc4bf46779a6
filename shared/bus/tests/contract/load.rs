//! Under load: bounded memory, and no stream at another's expense. These run alone, and compare within one run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bus::{Options, Service};
use protocol::StreamKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Backend, Kind, alone, echo, eventually, no_streams, open, pair, within};

const MIB: u64 = 1 << 20;
/// Measurements with stuck streams, each beside one without.
const PAIRS: usize = 61;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_gibibyte_passes_a_slow_reader_in_flat_memory_on_nats() {
    a_gibibyte_passes_a_slow_reader_in_flat_memory(&Backend::nats_with(Options::default(), alone().await).await).await;
}

#[tokio::test]
async fn a_gibibyte_passes_a_slow_reader_in_flat_memory_locally() {
    a_gibibyte_passes_a_slow_reader_in_flat_memory(&Backend::local_with(Options::default(), alone().await)).await;
}

async fn a_gibibyte_passes_a_slow_reader_in_flat_memory(backend: &Backend) {
    const TOTAL: u64 = 1024 * MIB;
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (mut opener, mut acceptor) = pair(&link, &mut listener).await;
    let writing = tokio::spawn(async move {
        let piece = vec![7; 64 * 1024];
        for _ in 0..TOTAL / 65_536 {
            opener.write_all(&piece).await.unwrap();
        }
        opener.shutdown().await.unwrap();
        opener
    });
    let (mut received, mut next_pause, mut warm, mut highest, mut full) = (0, 0, 0, 0, 0);
    while let Some(bytes) = within(Duration::from_secs(10), "more bytes", acceptor.chunk()).await.unwrap() {
        received += u64::try_from(bytes.len()).unwrap();
        if received >= next_pause {
            // The reader is slow here: until the window is as full as it gets, and a moment more.
            next_pause += 8 * MIB;
            tokio::time::sleep(Duration::from_millis(8)).await;
            let stats = executor.stats();
            assert!(stats.window_bytes <= MIB && stats.buffered_bytes <= MIB, "{stats:?}");
            full += u64::from(stats.buffered_bytes > MIB / 2);
            highest = highest.max(resident());
            if received < 128 * MIB {
                warm = highest;
            }
        }
    }
    assert_eq!(received, TOTAL);
    assert!(full > 32, "the reader was hardly ever slower than the writer: {full} of 128");
    let grown = highest.saturating_sub(warm);
    assert!(grown < 8 * MIB, "memory grew by {} KiB after the first 128 MiB ({} KiB then)", grown / 1024, warm / 1024);
    drop(writing.await.unwrap());
    drop(acceptor);
    no_streams(&link).await;
    no_streams(&executor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_streams_do_not_slow_others_on_nats() {
    stuck_streams_do_not_slow_others(&Backend::nats_with(Options::default(), alone().await).await).await;
}

#[tokio::test]
async fn stuck_streams_do_not_slow_others_locally() {
    stuck_streams_do_not_slow_others(&Backend::local_with(Options::default(), alone().await)).await;
}

/// Short measurements with and without stuck streams, side by side, and the median of the ratios of neighbours. One pair
/// says little: on a busy machine two measurements without any stuck stream differ by 30 %, and so does the best of five.
async fn stuck_streams_do_not_slow_others(backend: &Backend) {
    let link = backend.bus(Service::GatewayLink).await;
    let (quick, stuck) = (backend.bus(Service::ProxyExecutor).await, backend.bus(Service::RouteSyncer).await);
    let accepting = echo(quick.listen(StreamKind::Kube).await.unwrap());
    drop(open(&link, b"").await);
    let mut ratios = Vec::new();
    for _ in 0..PAIRS {
        let without = rate(backend, &link).await;
        let mut held = Vec::new();
        let mut writers = tokio::task::JoinSet::new();
        let mut listener = stuck.listen(StreamKind::Http).await.unwrap();
        for _ in 0..8 {
            let opening = async {
                let begun = Instant::now();
                loop {
                    match link.open(StreamKind::Http, bus::OpenHeader::default(), bytes::Bytes::new()).await {
                        Ok(stream) => return stream,
                        Err(error) => assert!(begun.elapsed() < Duration::from_secs(5), "{error}"),
                    }
                }
            };
            let (mut stream, accepted) = tokio::join!(opening, listener.accept());
            held.push(accepted.unwrap().1);
            writers.spawn(async move { stream.write_all(&vec![0; 200 << 20]).await });
        }
        eventually(Duration::from_secs(5), "the windows are full", || match stuck.stats().buffered_bytes {
            full @ 480_000.. => Ok(full),
            more => Err(more),
        })
        .await;
        ratios.push(rate(backend, &link).await / without);
        drop(held);
        writers.shutdown().await;
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[PAIRS / 2];
    let (low, high) = (ratios[PAIRS / 10], ratios[PAIRS - PAIRS / 10]);
    assert!(
        ratio >= 0.9,
        "rate beside stuck streams: {ratio:.2} of the rate without (80 % of pairs {low:.2} to {high:.2})"
    );
    accepting.abort();
}

/// What this thread has run for. In-process all the work is on it, and other processes do not count; over NATS the work
/// is in several, so there it is the time that passed.
fn clock(backend: &Backend, since: Instant) -> f64 {
    if matches!(backend.kind, Kind::Nats(_)) {
        return since.elapsed().as_secs_f64();
    }
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    statistics.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Round trips per second of 500 bytes, on 8 streams.
async fn rate(backend: &Backend, link: &bus::Bus) -> f64 {
    const TIME: Duration = Duration::from_millis(50);
    let count = Arc::new(AtomicU64::new(0));
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(open(link, b"").await);
    }
    let mut workers = tokio::task::JoinSet::new();
    let begun = Instant::now();
    let before = clock(backend, begun);
    for mut stream in streams {
        let count = Arc::clone(&count);
        workers.spawn(async move {
            let mut bytes = [1; 500];
            // At least once, however long the machine is busy elsewhere.
            loop {
                stream.write_all(&bytes).await.unwrap();
                stream.flush().await.unwrap();
                stream.read_exact(&mut bytes).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                if begun.elapsed() >= TIME {
                    return;
                }
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of seconds' work")]
    let done = count.load(Ordering::Relaxed) as f64;
    done / (clock(backend, begun) - before)
}
