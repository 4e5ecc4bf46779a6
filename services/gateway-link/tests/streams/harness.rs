//! The two ends of a link over a real TCP connection; what the agent's end gets is forwarded to a bus.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use bus::Bus;
use gateway_link::{Forwarder, Forwards, Metrics, TunnelDialer};
use mux::{Config, Incoming, Link, MuxStream, Role, Timed, Windows};
use protocol::{StreamHeader, StreamId, StreamKind};
use runtime::Tracer;
use targets::Names;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::{accept_async_with_config, client_async_with_config};

pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(output) => output,
        Err(_) => panic!("waited 20 s for {what}"),
    }
}

/// Looks until `check` succeeds; fails with what it said last.
pub async fn eventually<T, E: Debug>(limit: Duration, what: &str, mut check: impl FnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(last) if begun.elapsed() > limit => panic!("not within {limit:?}: {what}; last: {last:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// The agent's end: forwards until the link ends.
pub async fn agent(socket: TcpStream, bus: Bus, names: Names) {
    socket.set_nodelay(true).unwrap();
    let config = Config::default();
    let (socket, _) = client_async_with_config("ws://link.test/", Timed::new(socket), Some(config.websocket()))
        .await
        .expect("a handshake");
    let (link, Incoming { mut streams, control: _control }, driver) = mux::start(socket, Role::Agent, config);
    link.start_streams(Windows::Fixed);
    let forwarder = {
        let metrics = std::sync::Arc::new(Metrics::default());
        let options = gateway_link::Tunnels::default();
        let tunnels = TunnelDialer::new(&options, Forwards::default(), names, metrics.tcp.clone(), metrics.udp.clone());
        Forwarder { bus, tracer: Tracer::disabled(), metrics, tunnels }
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        driver.await;
    });
    loop {
        tokio::select! {
            stream = streams.recv() => match stream {
                Some(stream) => tasks.spawn(forwarder.clone().forward(stream)),
                None => return,
            },
            Some(_ended) = tasks.join_next() => continue,
        };
    }
}

/// The control plane's end.
pub struct ControlPlane {
    pub link: Link,
    _incoming: Incoming,
    _driver: JoinSet<()>,
}

impl ControlPlane {
    pub async fn accept(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        let config = Config::default();
        let socket = accept_async_with_config(Timed::new(socket), Some(config.websocket())).await.expect("a handshake");
        let (link, incoming, driver) = mux::start(socket, Role::ControlPlane, config);
        link.start_streams(Windows::Fixed);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            driver.await;
        });
        Self { link, _incoming: incoming, _driver: tasks }
    }

    /// A stream that begins with `request`.
    pub async fn stream(&self, request: &[u8]) -> MuxStream {
        self.open(&header(StreamKind::Kube, None).encode_v2(), request).await
    }

    /// A stream that begins with a header and `first`.
    pub async fn open(&self, header: &[u8], first: &[u8]) -> MuxStream {
        let mut stream = soon("a stream", self.link.open()).await.unwrap();
        stream.write_all(&[header, first].concat()).await.unwrap();
        stream
    }
}

pub fn header(kind: StreamKind, target: Option<&str>) -> StreamHeader {
    StreamHeader {
        kind,
        target: target.map(|target| target.parse().unwrap()),
        id: StreamId::new("r-1").unwrap(),
        traceparent: None,
        deadline: None,
    }
}
