//! A stream that is given up is noticed by whoever does not read it.

use std::{task::Poll, time::Duration};

use bus::{BusStream, Service, StreamReset};
use duplex::Duplex;
use protocol::StreamKind;
use tokio::io::AsyncWriteExt;

use crate::harness::{Backend, eventually, pair, within};

contract! {
    a_reset_is_noticed_while_a_chunk_waits_unread
    a_reset_is_noticed_while_nobody_reads
    a_reset_is_noticed_after_the_peers_end
    a_lost_bus_is_noticed_by_whoever_does_not_read
    bytes_wake_nobody_who_only_waits_for_a_reset
}

const SOON: Duration = Duration::from_secs(5);

async fn reset(stream: &mut BusStream) -> String {
    let error = within(SOON, "the reset", std::future::poll_fn(|cx| stream.poll_reset(cx))).await;
    error.get_ref().and_then(|inner| inner.downcast_ref::<StreamReset>()).expect("a StreamReset").reason.to_string()
}

async fn unharmed(stream: &mut BusStream) {
    std::future::poll_fn(|cx| {
        assert!(stream.poll_reset(cx).is_pending(), "a reset without a cause");
        Poll::Ready(())
    })
    .await;
}

async fn ends(backend: &Backend) -> (bus::Bus, bus::Bus, BusStream, BusStream) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (opener, acceptor) = pair(&link, &mut listener).await;
    (link, executor, opener, acceptor)
}

async fn write(stream: &mut BusStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

async fn a_reset_is_noticed_while_a_chunk_waits_unread(backend: &Backend) {
    let (_link, _executor, mut opener, mut acceptor) = ends(backend).await;
    write(&mut opener, b"one").await;
    assert_eq!(within(SOON, "a chunk", acceptor.chunk()).await.unwrap().unwrap(), "one");
    write(&mut opener, b"two").await;
    unharmed(&mut acceptor).await;
    opener.reset("enough");
    assert_eq!(reset(&mut acceptor).await, "enough");
    assert!(within(SOON, "a read", acceptor.chunk()).await.is_err(), "an abandoned stream was read");
}

async fn a_reset_is_noticed_while_nobody_reads(backend: &Backend) {
    let (_link, _executor, opener, mut acceptor) = ends(backend).await;
    unharmed(&mut acceptor).await;
    let waiting = tokio::spawn(async move { reset(&mut acceptor).await });
    drop(opener);
    assert_eq!(within(SOON, "the waiter", waiting).await.unwrap(), "dropped by the peer");
}

async fn a_reset_is_noticed_after_the_peers_end(backend: &Backend) {
    let (_link, _executor, mut opener, mut acceptor) = ends(backend).await;
    opener.write_all(b"all").await.unwrap();
    opener.shutdown().await.unwrap();
    opener.reset("enough");
    // What was complete stays readable, and nobody is told to throw it away.
    unharmed(&mut acceptor).await;
    assert_eq!(within(SOON, "the chunk", acceptor.chunk()).await.unwrap().unwrap(), "all");
    unharmed(&mut acceptor).await;
    assert_eq!(within(SOON, "the end", acceptor.chunk()).await.unwrap(), None);
    assert_eq!(within(SOON, "the reset", reset(&mut acceptor)).await, "enough");
}

async fn a_lost_bus_is_noticed_by_whoever_does_not_read(backend: &Backend) {
    let (link, executor, mut opener, mut acceptor) = ends(backend).await;
    write(&mut opener, b"unread").await;
    let waiting = tokio::spawn(async move { reset(&mut acceptor).await });
    executor.close().await;
    assert_eq!(within(SOON, "the waiter", waiting).await.unwrap(), "bus closed");
    reset(&mut opener).await;
    drop(link);
}

async fn bytes_wake_nobody_who_only_waits_for_a_reset(backend: &Backend) {
    let (_link, executor, mut opener, mut acceptor) = ends(backend).await;
    let waiting = tokio::spawn(async move {
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            polls += 1;
            acceptor.poll_reset(cx)
        })
        .await;
        polls
    });
    for _ in 0..20 {
        tokio::task::yield_now().await;
        write(&mut opener, b"x").await;
    }
    eventually(SOON, "the bytes arrive", || {
        let buffered = executor.stats().buffered_bytes;
        if buffered == 20 { Ok(()) } else { Err(buffered) }
    })
    .await;
    opener.reset("enough");
    assert_eq!(within(SOON, "the waiter", waiting).await.unwrap(), 2, "polls: at first, and for the reset");
}
