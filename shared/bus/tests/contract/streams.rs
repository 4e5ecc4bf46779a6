//! Byte streams, without faults of the bus.

use std::{
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bus::{BusStream, OpenError, OpenHeader, Options, Service};
use bytes::Bytes;
use protocol::{StreamKind, TraceParent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{
    Backend, Kind, alone, echo, eventually, no_streams, open, pair, pattern, reset_reason, round_trip, shared, within,
};

contract! {
    what_is_written_comes_back
    first_bytes_of_any_length_arrive
    the_header_arrives
    each_direction_ends_by_itself
    a_reset_reaches_the_other_side_with_its_reason
    dropping_is_a_reset
    a_complete_answer_survives_the_drop_after_it
    a_waiting_writer_learns_of_a_reset
    nobody_listening_is_known_at_once
    a_drained_listener_gets_no_more
    streams_spread_over_a_queue_group
    two_thousand_streams_leave_nothing
    an_abandoned_open_leaves_nothing
    random_pieces_both_ways_arrive_in_order
    a_dropped_bus_ends_its_streams
    a_closed_bus_says_so
}

const SOON: Duration = Duration::from_secs(5);

async fn what_is_written_comes_back(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let accepting = echo(executor.listen(StreamKind::Kube).await.unwrap());
    let mut stream = open(&link, b"").await;
    for length in [1, 2, 500, 4096, 65_535, 65_536, 65_537, 300_000] {
        let bytes = pattern(1, length);
        let (mut read, mut write) = tokio::io::split(stream);
        let sent = bytes.clone();
        let writing = tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.flush().await.unwrap();
            write
        });
        let mut back = vec![0; length];
        within(SOON, "the echo", read.read_exact(&mut back)).await.unwrap();
        assert!(back == bytes, "{length} bytes differ");
        stream = read.unsplit(writing.await.unwrap());
    }
    stream.shutdown().await.unwrap();
    assert_eq!(within(SOON, "the end", stream.read(&mut [0; 1])).await.unwrap(), 0);
    drop(stream);
    no_streams(&link).await;
    no_streams(&executor).await;
    assert_eq!(link.stats().resets + executor.stats().resets, 0);
    accepting.abort();
}

async fn first_bytes_of_any_length_arrive(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let accepting = echo(executor.listen(StreamKind::Kube).await.unwrap());
    for length in [1, 1000, 32 * 1024, 32 * 1024 + 1, 60_000] {
        let bytes = pattern(2, length);
        let mut stream = open(&link, &bytes).await;
        let mut back = vec![0; length];
        within(SOON, "the echo of the first bytes", stream.read_exact(&mut back)).await.unwrap();
        assert!(back == bytes, "{length} first bytes differ");
    }
    accepting.abort();
}

async fn the_header_arrives(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    drop(pair(&link, &mut listener).await);
    let traceparent = TraceParent { trace_id: [1; 16], span_id: [2; 8], sampled: true };
    let header = OpenHeader { id: "r-1".to_owned(), target: Some("a.b:80".to_owned()), traceparent: Some(traceparent) };
    let (opened, accepted) = tokio::join!(link.open(StreamKind::Kube, header.clone(), Bytes::new()), listener.accept());
    assert_eq!(accepted.unwrap().0, header);
    drop(opened.unwrap());
}

async fn each_direction_ends_by_itself(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    for opener_first in [true, false] {
        let (opener, acceptor) = pair(&link, &mut listener).await;
        let (mut one, mut two) = if opener_first { (opener, acceptor) } else { (acceptor, opener) };
        one.write_all(b"all of it").await.unwrap();
        one.shutdown().await.unwrap();
        let mut text = String::new();
        within(SOON, "the first end", two.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "all of it");
        assert!(one.write_all(b"more").await.is_err(), "written after the end");
        two.write_all(b"and the answer").await.unwrap();
        two.shutdown().await.unwrap();
        text.clear();
        within(SOON, "the second end", one.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "and the answer");
    }
    no_streams(&link).await;
    no_streams(&executor).await;
    assert_eq!(link.stats().resets + executor.stats().resets, 0, "a complete stream is not a reset");
}

async fn a_reset_reaches_the_other_side_with_its_reason(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (opener, mut acceptor) = pair(&link, &mut listener).await;
    opener.reset("the client went away");
    assert_eq!(reset_reason(&mut acceptor, SOON).await, "the client went away");
    assert!(acceptor.write_all(b"x").await.is_err());
    let (mut opener, acceptor) = pair(&link, &mut listener).await;
    acceptor.reset("policy says no");
    assert_eq!(reset_reason(&mut opener, SOON).await, "policy says no");
}

async fn dropping_is_a_reset(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (mut opener, mut acceptor) = pair(&link, &mut listener).await;
    acceptor.write_all(b"half of").await.unwrap();
    acceptor.flush().await.unwrap();
    drop(acceptor);
    reset_reason(&mut opener, SOON).await;
    // A side that has said all it has to say, and is not read to the end, still learns of it.
    let (opener, mut acceptor) = pair(&link, &mut listener).await;
    acceptor.shutdown().await.unwrap();
    drop(opener);
    reset_reason(&mut acceptor, SOON).await;
}

async fn a_complete_answer_survives_the_drop_after_it(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (mut opener, mut acceptor) = pair(&link, &mut listener).await;
    acceptor.write_all(&pattern(3, 30_000)).await.unwrap();
    acceptor.shutdown().await.unwrap();
    drop(acceptor);
    let failed = within(SOON, "our direction ends", async {
        while opener.write_all(b"x").await.is_ok() && opener.flush().await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    failed.await;
    let mut all = Vec::new();
    opener.read_to_end(&mut all).await.unwrap();
    assert!(all == pattern(3, 30_000), "{} bytes of the answer", all.len());
}

async fn a_waiting_writer_learns_of_a_reset(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (mut opener, acceptor) = pair(&link, &mut listener).await;
    let writing = tokio::spawn(async move { opener.write_all(&vec![0; 8 << 20]).await });
    // The window is full when nothing more comes.
    eventually(SOON, "the writer has filled the window", || match executor.stats().buffered_bytes {
        full @ 60_000.. => Ok(full),
        more => Err(more),
    })
    .await;
    assert!(!writing.is_finished());
    drop(acceptor);
    assert!(within(SOON, "the writer wakes", writing).await.unwrap().is_err());
    no_streams(&executor).await;
}

async fn nobody_listening_is_known_at_once(backend: &Backend) {
    let link = backend.bus(Service::GatewayLink).await;
    let opening = link.open(StreamKind::Kube, OpenHeader::default(), Bytes::new());
    let opened = within(Duration::from_secs(1), "an open without a listener fails", opening).await;
    assert!(matches!(opened, Err(OpenError::NoInstance)), "{opened:?}");
    no_streams(&link).await;
}

async fn a_drained_listener_gets_no_more(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (mut before, acceptor) = pair(&link, &mut listener).await;
    let serving = tokio::spawn(crate::harness::echo_stream(acceptor));
    listener.drain().await;
    assert!(within(SOON, "accept ends", listener.accept()).await.is_none());
    let begun = Instant::now();
    loop {
        match link.open(StreamKind::Kube, OpenHeader::default(), Bytes::new()).await {
            Err(OpenError::NoInstance) => break,
            other => assert!(begun.elapsed() < SOON, "{other:?}"),
        }
    }
    round_trip(&mut before, b"the open stream goes on").await;
    drop(before);
    serving.await.unwrap();
}

async fn streams_spread_over_a_queue_group(backend: &Backend) {
    let link = backend.bus(Service::GatewayLink).await;
    let instances = [backend.bus(Service::ProxyExecutor).await, backend.bus(Service::ProxyExecutor).await];
    let mut accepting = Vec::new();
    for bus in &instances {
        accepting.push(echo(bus.listen(StreamKind::Kube).await.unwrap()));
    }
    let begun = Instant::now();
    while instances.iter().any(|bus| bus.stats().accepted < 10) {
        round_trip(&mut open(&link, b"").await, b"hello").await;
        assert!(begun.elapsed() < SOON, "{:?}", instances.each_ref().map(|bus| bus.stats().accepted));
    }
    let accepted = instances.iter().map(|bus| bus.stats().accepted).sum::<u64>();
    assert_eq!(accepted, link.stats().opened, "each stream has one acceptor");
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn two_thousand_streams_leave_nothing(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let accepting = echo(executor.listen(StreamKind::Kube).await.unwrap());
    round_trip(&mut open(&link, b"").await, b"ready").await;
    // As many at once as fit beside each other, each ended in another way.
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..2000_u32 {
        let link = link.clone();
        tasks.spawn(async move {
            let mut stream = open(&link, b"first").await;
            let mut back = [0; 5];
            stream.read_exact(&mut back).await.unwrap();
            match n % 4 {
                0 => drop(stream),
                1 => stream.reset("enough"),
                2 => {
                    stream.shutdown().await.unwrap();
                    assert_eq!(stream.read(&mut back).await.unwrap(), 0);
                }
                _ => stream.write_all(b"never flushed").await.unwrap(),
            }
        });
        if tasks.len() >= 200 {
            tasks.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    no_streams(&link).await;
    no_streams(&executor).await;
    accepting.abort();
}

async fn an_abandoned_open_leaves_nothing(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (opener, acceptor) = pair(&link, &mut listener).await;
    drop((opener, acceptor));
    let mut abandoned = 0;
    for _ in 0..50 {
        let opening = link.open(StreamKind::Kube, OpenHeader::default(), Bytes::new());
        let mut opening = std::pin::pin!(opening);
        // Polled until it is sent, then dropped.
        let polled = std::future::poll_fn(|cx| Poll::Ready(opening.as_mut().poll(cx))).await;
        abandoned += usize::from(polled.is_pending());
        drop(polled);
    }
    let accepting = echo(listener);
    no_streams(&link).await;
    no_streams(&executor).await;
    let local = matches!(backend.kind, Kind::Local(_));
    assert!(local || abandoned > 0, "each open was complete at once");
    accepting.abort();
}

async fn random_pieces_both_ways_arrive_in_order(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (opener, acceptor) = pair(&link, &mut listener).await;
    let one = tokio::spawn(exchange(opener, 11, 12));
    let two = tokio::spawn(exchange(acceptor, 12, 11));
    within(Duration::from_secs(30), "both directions", async { tokio::try_join!(one, two).unwrap() }).await;
    no_streams(&link).await;
    no_streams(&executor).await;
}

/// Writes and reads 16 MiB in pieces of odd sizes, flushing now and then.
async fn exchange(stream: BusStream, send: u64, expect: u64) {
    const TOTAL: usize = 16 << 20;
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        let (all, sizes) = (pattern(send, TOTAL), pattern(send + 100, 64));
        let mut rest = all.as_slice();
        for size in sizes.iter().cycle() {
            let size = usize::from(*size).pow(2).max(1).min(rest.len());
            let (piece, tail) = rest.split_at(size);
            write.write_all(piece).await.unwrap();
            if size.is_multiple_of(3) {
                write.flush().await.unwrap();
            }
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        write.shutdown().await.unwrap();
    };
    let reading = async {
        let mut all = Vec::new();
        read.read_to_end(&mut all).await.unwrap();
        assert!(all == pattern(expect, TOTAL), "the bytes differ, {} of {TOTAL}", all.len());
    };
    tokio::join!(writing, reading);
}

async fn a_dropped_bus_ends_its_streams(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (mut opener, mut acceptor) = pair(&link, &mut listener).await;
    drop((listener, executor));
    reset_reason(&mut opener, Duration::from_secs(2)).await;
    reset_reason(&mut acceptor, Duration::from_secs(2)).await;
}

async fn a_closed_bus_says_so(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (mut opener, _acceptor) = pair(&link, &mut listener).await;
    executor.close().await;
    reset_reason(&mut opener, Duration::from_secs(2)).await;
    assert!(within(SOON, "accept ends", listener.accept()).await.is_none());
    let other = link.clone();
    link.close().await;
    let opened = other.open(StreamKind::Kube, OpenHeader::default(), Bytes::new()).await;
    assert!(matches!(opened, Err(OpenError::Unavailable(_))), "{opened:?}");
}

/// Room for a few streams only.
fn tight() -> Options {
    Options { buffer_total: 256 * 1024, ..Options::default() }
}

#[tokio::test]
async fn a_full_budget_refuses_streams_until_there_is_room_on_nats() {
    a_full_budget_refuses_streams_until_there_is_room(&Backend::nats_with(tight(), shared().await).await).await;
}

#[tokio::test]
async fn a_full_budget_refuses_streams_until_there_is_room_locally() {
    a_full_budget_refuses_streams_until_there_is_room(&Backend::local_with(tight(), shared().await)).await;
}

async fn a_full_budget_refuses_streams_until_there_is_room(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let accepting = echo(executor.listen(StreamKind::Kube).await.unwrap());
    let mut streams = vec![open(&link, b"").await];
    let refused = loop {
        match link.open(StreamKind::Kube, OpenHeader::default(), Bytes::new()).await {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
        assert!(streams.len() < 100, "the budget does not end");
    };
    assert_eq!(refused, OpenError::TooMany);
    assert!(streams.len() >= 10, "{}", streams.len());
    assert!(link.stats().window_bytes <= link.stats().window_limit);
    // All that are open work.
    for stream in &mut streams {
        round_trip(stream, &pattern(9, 3000)).await;
    }
    drop(streams);
    no_streams(&executor).await;
    round_trip(&mut open(&link, b"").await, b"again").await;
    accepting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_share_a_bus() {
    let backend = Backend::nats_with(Options::default(), alone().await).await;
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let accepting = echo(executor.listen(StreamKind::Kube).await.unwrap());
    round_trip(&mut open(&link, b"").await, b"ready").await;
    let bytes = Arc::new(pattern(6, 40_000));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (link, bytes) = (link.clone(), Arc::clone(&bytes));
        tasks.spawn(async move {
            let mut stream = open(&link, b"").await;
            for turn in 0..50 {
                round_trip(&mut stream, &bytes[turn * 100..turn * 100 + 1 + turn * 700]).await;
            }
        });
    }
    while let Some(task) = within(Duration::from_secs(30), "all streams", tasks.join_next()).await {
        task.unwrap();
    }
    no_streams(&link).await;
    no_streams(&executor).await;
    accepting.abort();
}
