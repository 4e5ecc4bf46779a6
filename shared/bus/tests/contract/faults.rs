//! What must hold when NATS, the network or another process fails.

use std::time::{Duration, Instant};

use bus::{Bus, ConnectError, OpenError, OpenHeader, Options, RequestError, Service, Status};
use bytes::Bytes;
use protocol::StreamKind;

use crate::{
    child::Peer,
    harness::{
        Backend, Kind, ask, connected, echo, eventually, no_streams, open, pair, reset_reason, round_trip, shared,
        within,
    },
    server::{Proxy, Server},
};

/// What the design allows for noticing a dead peer, and what a busy machine may add.
const NOTICED: Duration = Duration::from_millis(2000 + 500);
/// What the design allows for recovery.
const RECOVERED: Duration = Duration::from_secs(5);

async fn bus_at(url: String, service: Service) -> Bus {
    Bus::connect(&Options { url, ..Options::default() }, service).await.unwrap()
}

/// Opens, trying again whatever the reason, until it works.
async fn open_again(bus: &Bus, limit: Duration) -> bus::BusStream {
    let begun = Instant::now();
    loop {
        match bus.open(StreamKind::Kube, OpenHeader::default(), Bytes::new()).await {
            Ok(stream) => return stream,
            Err(error) => assert!(begun.elapsed() < limit, "after {:?}: {error}", begun.elapsed()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_killed_peer_is_noticed() {
    let backend = Backend::nats().await;
    let link = backend.bus(Service::GatewayLink).await;
    let mut peer = Peer::start(&backend.options.url);
    let mut idle = open_again(&link, RECOVERED).await;
    let mut used = open(&link, b"").await;
    round_trip(&mut used, b"alive").await;
    peer.kill();
    let begun = Instant::now();
    reset_reason(&mut idle, NOTICED).await;
    reset_reason(&mut used, NOTICED).await;
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    let opened = link.open(StreamKind::Kube, OpenHeader::default(), Bytes::new()).await;
    assert!(matches!(opened, Err(OpenError::NoInstance)), "{opened:?}");
    drop((idle, used));
    no_streams(&link).await;
}

#[tokio::test]
async fn a_frozen_peer_is_noticed_and_may_come_back() {
    let backend = Backend::nats().await;
    let link = backend.bus(Service::GatewayLink).await;
    let peer = Peer::start(&backend.options.url);
    let mut stream = open_again(&link, RECOVERED).await;
    round_trip(&mut stream, b"alive").await;
    peer.freeze();
    let begun = Instant::now();
    let reason = reset_reason(&mut stream, NOTICED).await;
    assert!(begun.elapsed() > Duration::from_secs(1), "given up too early: {:?}", begun.elapsed());
    assert!(reason.contains("does not answer"), "{reason}");
    let opening = link.open(StreamKind::Kube, OpenHeader::default(), Bytes::new());
    let opened = within(Duration::from_secs(4), "an open to a frozen peer ends", opening).await;
    assert!(matches!(opened, Err(OpenError::Timeout)), "{opened:?}");
    peer.thaw();
    drop(stream);
    let mut stream = open_again(&link, RECOVERED).await;
    round_trip(&mut stream, b"back").await;
    drop(stream);
    no_streams(&link).await;
}

#[tokio::test]
async fn a_quiet_stream_lives_as_long_as_its_peer() {
    let backend = Backend::nats().await;
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let accepting = echo(executor.listen(StreamKind::Kube).await.unwrap());
    let mut stream = open(&link, b"").await;
    round_trip(&mut stream, b"before").await;
    // Twice what silence ends a stream after: nothing may end it, so time itself is what is waited for.
    let quiet = tokio::time::timeout(Duration::from_secs(4), stream.chunk()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    round_trip(&mut stream, b"after").await;
    assert_eq!(link.stats().resets + executor.stats().resets, 0);
    accepting.abort();
}

#[tokio::test]
async fn a_restarted_server_resets_streams_and_is_used_again() {
    let mut backend = Backend::nats().await;
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let keeper = backend.bus(Service::StateKeeper).await;
    let _serving = keeper.serve(async |request: crate::harness::Ask| Ok(request.text)).await.unwrap();
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (mut opener, mut acceptor) = pair(&link, &mut listener).await;
    let accepting = echo(listener);
    let Kind::Nats(server) = &mut backend.kind else { unreachable!() };
    server.kill();
    assert_eq!(reset_reason(&mut opener, NOTICED).await, "bus connection lost");
    assert_eq!(reset_reason(&mut acceptor, NOTICED).await, "bus connection lost");
    let mut status = link.status();
    within(NOTICED, "the status says so", status.wait_for(|status| *status != Status::Connected)).await.unwrap();
    let begun = Instant::now();
    let opened = link.open(StreamKind::Kube, OpenHeader::default(), Bytes::new()).await;
    assert!(matches!(opened, Err(OpenError::Unavailable(_))), "{opened:?}");
    let answer = link.request(&ask("x")).await;
    assert!(matches!(answer, Err(RequestError::Unavailable(_))), "{answer:?}");
    assert!(begun.elapsed() < Duration::from_millis(500), "not at once: {:?}", begun.elapsed());
    server.restart().await;
    let begun = Instant::now();
    let mut stream = open_again(&link, RECOVERED).await;
    round_trip(&mut stream, b"back").await;
    while let Err(error) = link.request(&ask("x")).await {
        assert!(begun.elapsed() < RECOVERED, "{error:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    connected(&link).await;
    drop((stream, opener, acceptor));
    no_streams(&link).await;
    no_streams(&executor).await;
    accepting.abort();
}

#[tokio::test]
async fn repeated_restarts_under_load_lose_nothing_silently() {
    let mut backend = Backend::nats().await;
    let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
    let accepting = echo(executor.listen(StreamKind::Kube).await.unwrap());
    drop(open(&link, b"").await);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut load = tokio::task::JoinSet::new();
    for worker in 0..8_u64 {
        let (link, stopped) = (link.clone(), stopped.clone());
        load.spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let (mut complete, mut failed) = (0_u32, 0_u32);
            let bytes = crate::harness::pattern(worker, 50_000);
            while !*stopped.borrow() {
                let Ok(mut stream) = link.open(StreamKind::Kube, OpenHeader::default(), Bytes::new()).await else {
                    failed += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                };
                let exchange = async {
                    stream.write_all(&bytes).await?;
                    stream.shutdown().await?;
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).await?;
                    std::io::Result::Ok(all)
                };
                match within(Duration::from_secs(6), "an exchange ends in one way or the other", exchange).await {
                    Ok(all) => {
                        assert!(all == bytes, "a short or wrong success: {} bytes", all.len());
                        complete += 1;
                    }
                    Err(_) => failed += 1,
                }
            }
            (complete, failed)
        });
    }
    let Kind::Nats(server) = &mut backend.kind else { unreachable!() };
    for _ in 0..3 {
        server.kill();
        server.restart().await;
        let before = link.stats().opened;
        eventually(RECOVERED, "streams are opened again", || match link.stats().opened - before {
            100.. => Ok(()),
            few => Err(few),
        })
        .await;
    }
    stop.send_replace(true);
    let (mut complete, mut failed) = (0, 0);
    while let Some(worker) = load.join_next().await {
        let (did, did_not) = worker.unwrap();
        complete += did;
        failed += did_not;
    }
    assert!(complete > 100 && failed > 0, "complete {complete}, failed {failed}");
    no_streams(&link).await;
    no_streams(&executor).await;
    accepting.abort();
}

#[tokio::test]
async fn a_bus_that_is_away_at_the_start_is_a_state() {
    let turn = shared().await;
    let mut server = Server::start(None).await;
    server.kill();
    let link = within(Duration::from_secs(1), "connect returns", bus_at(server.url(), Service::GatewayLink)).await;
    assert!(matches!(&*link.status().borrow(), Status::Disconnected { .. }));
    let executor = bus_at(server.url(), Service::ProxyExecutor).await;
    let listening = within(Duration::from_secs(1), "listen returns", executor.listen(StreamKind::Kube));
    let accepting = echo(listening.await.unwrap());
    let begun = Instant::now();
    let answer = link.request(&ask("x")).await;
    assert!(matches!(answer, Err(RequestError::Unavailable(_))), "{answer:?}");
    let opened = link.open(StreamKind::Kube, OpenHeader::default(), Bytes::new()).await;
    assert!(matches!(opened, Err(OpenError::Unavailable(_))), "{opened:?}");
    assert!(begun.elapsed() < Duration::from_millis(500), "not at once: {:?}", begun.elapsed());
    server.restart().await;
    round_trip(&mut open_again(&link, RECOVERED).await, b"there").await;
    accepting.abort();
    drop(turn);
}

#[tokio::test]
async fn a_cut_connection_resets_streams_on_both_sides() {
    let backend = Backend::nats().await;
    let Kind::Nats(server) = &backend.kind else { unreachable!() };
    let proxy = Proxy::start(server.port).await;
    let link = bus_at(proxy.url(), Service::GatewayLink).await;
    connected(&link).await;
    let executor = backend.bus(Service::ProxyExecutor).await;
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (mut opener, mut acceptor) = pair(&link, &mut listener).await;
    let accepting = echo(listener);
    proxy.cut();
    assert_eq!(reset_reason(&mut opener, NOTICED).await, "bus connection lost");
    // The executor's own connection is fine: it learns from its peer, or from the server.
    reset_reason(&mut acceptor, NOTICED).await;
    round_trip(&mut open_again(&link, RECOVERED).await, b"again").await;
    accepting.abort();
}

#[tokio::test]
async fn a_frozen_network_resets_streams_on_both_sides() {
    let backend = Backend::nats().await;
    let Kind::Nats(server) = &backend.kind else { unreachable!() };
    let proxy = Proxy::start(server.port).await;
    let link = bus_at(proxy.url(), Service::GatewayLink).await;
    connected(&link).await;
    let executor = backend.bus(Service::ProxyExecutor).await;
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let (mut opener, mut acceptor) = pair(&link, &mut listener).await;
    let accepting = echo(listener);
    proxy.freeze();
    let both = async {
        tokio::join!(reset_reason(&mut opener, NOTICED), reset_reason(&mut acceptor, NOTICED));
    };
    within(NOTICED, "both sides notice", both).await;
    proxy.thaw();
    // The client has to notice that its connection is dead, too.
    round_trip(&mut open_again(&link, RECOVERED * 2).await, b"again").await;
    accepting.abort();
}

#[tokio::test]
async fn options_that_cannot_work_are_errors() {
    let url = Options { url: "nats://a b:x".to_owned(), ..Options::default() };
    let error = Bus::connect(&url, Service::GatewayLink).await.unwrap_err();
    assert!(matches!(error, ConnectError::Url { .. }), "{error}");
    let url = Options { url: "nats://user:secret@a b:x".to_owned(), ..Options::default() };
    let error = Bus::connect(&url, Service::GatewayLink).await.unwrap_err();
    assert!(!error.to_string().contains("secret") && error.to_string().contains("a b:x"), "{error}");
    for url in ["nats://user:secret@127.0.0.1:4222", "nats://:secret@127.0.0.1:4222", "nats://token@127.0.0.1:4222"] {
        let credentials = Options { url: url.to_owned(), ..Options::default() };
        let error = Bus::connect(&credentials, Service::GatewayLink).await.unwrap_err();
        assert!(matches!(error, ConnectError::Credentials), "{error}");
    }
    let user = Options { user: Some("gateway-link".to_owned()), ..Options::default() };
    let error = Bus::connect(&user, Service::GatewayLink).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoPassword), "{error}");
    let file = Options { password_file: Some("/nonexistent/password".into()), ..Options::default() };
    let error = Bus::connect(&file, Service::GatewayLink).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/password"), "{error}");
}
