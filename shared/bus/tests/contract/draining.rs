//! A listener that leaves its queue group loses nothing on the way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bus::{Bus, OpenError, OpenHeader, Options, Service};
use bytes::Bytes;
use protocol::StreamKind;
use tokio::task::JoinSet;

use crate::{
    harness::{Backend, Kind, connected, echo, no_streams, open, pair, round_trip, within},
    server::Proxy,
};

contract! {
    every_open_during_a_drain_is_answered
    a_drain_without_the_bus_ends
}

async fn every_open_during_a_drain_is_answered(backend: &Backend) {
    let (link, staying) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let echoing = echo(staying.listen(StreamKind::Kube).await.unwrap());
    drop(open(&link, b"").await);
    let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut openers = JoinSet::new();
    for _ in 0..64 {
        let (link, stop, opened) = (link.clone(), Arc::clone(&stop), Arc::clone(&opened));
        openers.spawn(async move {
            while !stop.load(SeqCst) {
                let mut stream =
                    link.open(StreamKind::Kube, OpenHeader::default(), Bytes::new()).await.expect("an answer");
                round_trip(&mut stream, b"x").await;
                opened.fetch_add(1, SeqCst);
            }
        });
    }
    let mut taken = 0;
    for _ in 0..20 {
        let leaving = backend.bus(Service::ProxyExecutor).await;
        let mut listener = leaving.listen(StreamKind::Kube).await.unwrap();
        let mut streams = JoinSet::new();
        for _ in 0..20 {
            let (_, stream) = within(Duration::from_secs(20), "a stream", listener.accept()).await.unwrap();
            streams.spawn(crate::harness::echo_stream(stream));
        }
        listener.drain().await;
        while let Some((_, stream)) =
            within(Duration::from_secs(20), "the drained listener's end", listener.accept()).await
        {
            taken += 1;
            streams.spawn(crate::harness::echo_stream(stream));
        }
        while let Some(ended) = streams.join_next().await {
            ended.unwrap();
        }
        leaving.close().await;
    }
    stop.store(true, SeqCst);
    while let Some(ended) = openers.join_next().await {
        ended.unwrap();
    }
    println!("{} streams, {taken} of them while a listener drained", opened.load(SeqCst));
    echoing.abort();
}

async fn a_drain_without_the_bus_ends(backend: &Backend) {
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    drop(pair(&link, &mut listener).await);
    executor.close().await;
    within(Duration::from_secs(5), "the drain", listener.drain()).await;
    assert!(within(Duration::from_secs(5), "accept ends", listener.accept()).await.is_none());
}

/// The server has routed opens to us that we have not received when we leave, and our connection does other things
/// before they come.
#[tokio::test]
async fn opens_on_their_way_to_a_listener_that_leaves_are_answered() {
    const OPENS: usize = 8;
    let backend = Backend::nats().await;
    let Kind::Nats(server) = &backend.kind else { unreachable!() };
    let proxy = Proxy::start(server.port).await;
    let options = Options { url: proxy.url(), ..Options::default() };
    let executor = Bus::connect(&options, Service::ProxyExecutor).await.unwrap();
    connected(&executor).await;
    let link = backend.bus(Service::GatewayLink).await;
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    drop(pair(&link, &mut listener).await);
    no_streams(&executor).await;

    proxy.freeze();
    let mut opens = JoinSet::new();
    for _ in 0..OPENS {
        let link = link.clone();
        opens.spawn(async move { link.open(StreamKind::Kube, OpenHeader::default(), Bytes::new()).await });
    }
    // Behind them on the same connection: once it is answered, the server has routed them.
    tokio::task::yield_now().await;
    let nobody = link.open(StreamKind::Http, OpenHeader::default(), Bytes::new()).await;
    assert_eq!(nobody.unwrap_err(), OpenError::NoInstance);
    listener.drain().await;
    let busy = tokio::spawn({
        let executor = executor.clone();
        async move { executor.open(StreamKind::Http, OpenHeader::default(), Bytes::new()).await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    proxy.thaw();

    let mut streams = Vec::new();
    while let Some((_, stream)) = within(Duration::from_secs(5), "the end of accept", listener.accept()).await {
        streams.push(stream);
    }
    assert_eq!(streams.len(), OPENS, "the server routed {OPENS} opens here");
    while let Some(opened) = opens.join_next().await {
        opened.unwrap().expect("an open that reached a listener");
    }
    assert_eq!(busy.await.unwrap().unwrap_err(), OpenError::NoInstance);
}
