//! Two ends of a link over a real TCP connection, or one end and a socket that the test writes to itself.

use std::{future::Future, time::Duration};

use mux::{Closed, Config, Control, Link, MuxStream, Role, Streams, Timed, Windows};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

pub type Socket = WebSocketStream<Timed<TcpStream>>;

pub struct End {
    pub link: Link,
    pub control: Control,
    pub streams: Streams,
    pub driver: JoinHandle<Closed>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl End {
    pub fn new(ws: Socket, role: Role, config: &Config) -> Self {
        let (link, incoming, driver) = mux::start(ws, role, config.clone());
        Self { link, control: incoming.control, streams: incoming.streams, driver: tokio::spawn(driver) }
    }

    pub async fn closed(&mut self) -> Closed {
        soon("the driver to end", &mut self.driver).await.unwrap()
    }
}

/// Fails the test with `what` when it takes more than 20 s.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    within(Duration::from_secs(20), what, future).await
}

pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {limit:?} for {what}"),
    }
}

/// Polls `probe` until it gives something, and reports what it last saw.
pub async fn until<T: std::fmt::Debug>(what: &str, mut probe: impl FnMut() -> Result<(), T>) {
    let mut last = None;
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while let Err(seen) = probe() {
            last = Some(seen);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    if waited.await.is_err() {
        panic!("waited 20 s for {what}, last saw {last:?}");
    }
}

pub async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (client, server) = (client.unwrap(), server.unwrap().0);
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    (client, server)
}

/// Client and server end of a WebSocket.
pub async fn sockets(config: &Config) -> (Socket, Socket) {
    let (client, server) = tcp().await;
    handshake(client, server, config).await
}

pub async fn handshake(client: TcpStream, server: TcpStream, config: &Config) -> (Socket, Socket) {
    let (client, server) = tokio::join!(
        client_async_with_config("ws://link.test/", Timed::new(client), Some(config.websocket())),
        accept_async_with_config(Timed::new(server), Some(config.websocket())),
    );
    (client.unwrap().0, server.unwrap())
}

/// Agent and control plane with streams started.
pub async fn ends_with(config: &Config, windows: Windows) -> (End, End) {
    let (client, server) = sockets(config).await;
    let agent = End::new(client, Role::Agent, config);
    let control_plane = End::new(server, Role::ControlPlane, config);
    agent.link.start_streams(windows);
    control_plane.link.start_streams(windows);
    (agent, control_plane)
}

pub async fn ends() -> (End, End) {
    ends_with(&Config::default(), Windows::Tuned).await
}

/// One stream, both sides of it: the opener's (with `hi` written) and the acceptor's (with `hi` read).
pub async fn stream(opener: &End, acceptor: &mut End) -> (MuxStream, MuxStream) {
    let mut near = soon("open", opener.link.open()).await.unwrap();
    near.write_all(b"hi").await.unwrap();
    let mut far = soon("accept", acceptor.streams.recv()).await.unwrap();
    let mut hi = [0; 2];
    soon("the first bytes", far.read_exact(&mut hi)).await.unwrap();
    assert_eq!(&hi, b"hi");
    (near, far)
}

/// Bytes that differ at every position, so that lost, doubled or swapped pieces show.
pub fn pattern(offset: u64, buf: &mut [u8]) {
    for (i, byte) in buf.iter_mut().enumerate() {
        let n = offset + i as u64;
        *byte = (n ^ (n >> 8) ^ (n >> 16).wrapping_mul(31) ^ (n >> 24)) as u8;
    }
}
