//! What the tests share: a backend, waiting, and typical ends of a stream.

use std::{
    fmt::Debug,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Bus, BusStream, Listener, LocalBus, OpenHeader, Options, Request, Service, Status, StreamReset, subjects};
use bytes::Bytes;
use protocol::StreamKind;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock},
    task::JoinHandle,
};

use crate::server::Server;

/// Tests that measure run alone.
fn quiet() -> Arc<RwLock<()>> {
    static QUIET: std::sync::LazyLock<Arc<RwLock<()>>> = std::sync::LazyLock::new(Arc::default);
    Arc::clone(&QUIET)
}

#[expect(dead_code, reason = "held, not looked at")]
pub enum Turn {
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

pub async fn shared() -> Turn {
    Turn::Shared(quiet().read_owned().await)
}

pub async fn alone() -> Turn {
    Turn::Alone(quiet().write_owned().await)
}

pub enum Kind {
    Nats(Server),
    Local(LocalBus),
}

pub struct Backend {
    pub kind: Kind,
    pub options: Options,
    /// Each service has only the rights of the table.
    restricted: bool,
    _turn: Turn,
}

pub fn everything(_: Service) -> subjects::Permissions {
    subjects::Permissions { publish: vec![">".to_owned()], subscribe: vec![">".to_owned()], allow_responses: true }
}

impl Backend {
    pub async fn nats() -> Self {
        Self::nats_with(Options::default(), shared().await).await
    }

    pub async fn nats_with(options: Options, turn: Turn) -> Self {
        let server = Server::start(None).await;
        let options = Options { url: server.url(), ..options };
        Self { kind: Kind::Nats(server), options, restricted: false, _turn: turn }
    }

    pub async fn nats_restricted() -> Self {
        let turn = shared().await;
        let server = Server::start(Some(crate::permissions::server_config())).await;
        let options = Options { url: server.url(), ..Options::default() };
        Self { kind: Kind::Nats(server), options, restricted: true, _turn: turn }
    }

    pub async fn local() -> Self {
        Self::local_with(Options::default(), shared().await)
    }

    pub fn local_with(options: Options, turn: Turn) -> Self {
        let local = LocalBus::with(&options, everything);
        Self { kind: Kind::Local(local), options, restricted: false, _turn: turn }
    }

    pub async fn local_restricted() -> Self {
        let options = Options::default();
        Self { kind: Kind::Local(LocalBus::new()), options, restricted: true, _turn: shared().await }
    }

    /// A new instance, connected.
    pub async fn bus(&self, service: Service) -> Bus {
        match &self.kind {
            Kind::Local(local) => local.bus(service),
            Kind::Nats(server) => {
                let mut options = Options { url: server.url(), ..self.options.clone() };
                if self.restricted {
                    let path = server.directory.join(format!("{service}.password"));
                    std::fs::write(&path, format!("{service}-password\n")).unwrap();
                    options.password_file = Some(path);
                }
                let bus = Bus::connect(&options, service).await.unwrap();
                connected(&bus).await;
                bus
            }
        }
    }
}

pub async fn connected(bus: &Bus) {
    let mut status = bus.status();
    within(Duration::from_secs(10), "the bus connects", status.wait_for(|status| *status == Status::Connected))
        .await
        .unwrap();
}

/// `future`'s value, or a failure that says what did not happen.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    let begun = Instant::now();
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {limit:?} (waited {:?}): {what}", begun.elapsed()),
    }
}

/// Looks until `check` succeeds; fails with what it said last.
pub async fn eventually<T, E: Debug>(limit: Duration, what: &str, mut check: impl FnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(last) if begun.elapsed() > limit => panic!("not within {limit:?}: {what}; last: {last:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Opens, trying again while the subscription of a listener made just now is still on its way to the server.
pub async fn open(bus: &Bus, first: &[u8]) -> BusStream {
    let begun = Instant::now();
    loop {
        let header = OpenHeader { id: "test".to_owned(), ..OpenHeader::default() };
        match bus.open(StreamKind::Kube, header, Bytes::copy_from_slice(first)).await {
            Ok(stream) => return stream,
            Err(bus::OpenError::NoInstance) if begun.elapsed() < Duration::from_secs(5) => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(error) => panic!("cannot open a stream: {error}"),
        }
    }
}

/// A stream between two instances: (opener's end, acceptor's end).
pub async fn pair(opener: &Bus, listener: &mut Listener) -> (BusStream, BusStream) {
    let (stream, accepted) = tokio::join!(open(opener, b""), listener.accept());
    (stream, accepted.expect("a stream").1)
}

/// Sends back what comes, each stream in its own task.
pub fn echo(mut listener: Listener) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut streams = tokio::task::JoinSet::new();
        while let Some((_, stream)) = listener.accept().await {
            streams.spawn(echo_stream(stream));
        }
    })
}

pub async fn echo_stream(mut stream: BusStream) {
    while let Ok(Some(bytes)) = stream.chunk().await {
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

pub async fn round_trip(stream: &mut BusStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut back = vec![0; bytes.len()];
    within(Duration::from_secs(10), "the echo", stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, bytes);
}

/// The reason a read fails with.
pub async fn reset_reason(stream: &mut BusStream, limit: Duration) -> String {
    let error = within(limit, "the stream is reset", async {
        loop {
            match stream.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a clean end in place of a reset"),
                Err(error) => return error,
            }
        }
    })
    .await;
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    error.get_ref().and_then(|inner| inner.downcast_ref::<StreamReset>()).expect("a StreamReset").reason.to_string()
}

/// Bytes that differ everywhere, the same for the same seed.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

pub async fn no_streams(bus: &Bus) {
    eventually(Duration::from_secs(5), "no stream and no byte is left", || {
        let stats = bus.stats();
        let empty = stats.streams_open == 0 && stats.buffered_bytes == 0 && stats.window_bytes == 0;
        if empty { Ok(()) } else { Err(stats) }
    })
    .await;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    pub code: u16,
}

impl Request for Ask {
    type Error = Refused;
    type Reply = String;

    const SERVED_BY: Service = Service::StateKeeper;
    const SUBJECT: &'static str = "test.ask";
}

pub fn ask(text: &str) -> Ask {
    Ask { text: text.to_owned() }
}
