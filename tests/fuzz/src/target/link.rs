//! A link whose peer sends anything. Beside it another link, with which it shares the limit of what is unread, works on.
//!
//! Of an input, the first byte says how the link is used ([`Manner`]), the second into how large pieces the rest is cut.

use super::kind_of;
use futures::{SinkExt, StreamExt};
use mux::{Closed, Config, Driver, Incoming, Link, MuxStream, Role, Timed, Unread, Windows};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role as WebSocketRole},
};

/// Everything of one input: a link that does not end by then hangs.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const SOCKET: usize = 64 * 1024;
const STREAMS: usize = 8;
const UNREAD: usize = 1 << 20;
const MESSAGE: usize = 64 * 1024;
const HELLO: &[u8] = b"still here";

/// How the link under test is used.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// Or the control plane's end.
    is_agent: bool,
    /// The bytes go into the socket as they are, below the WebSocket.
    is_raw: bool,
    /// What streams bring is read and sent back; else they are held.
    reads: bool,
    /// It opens streams itself.
    opens: bool,
    /// Messages are control messages still.
    before_streams: bool,
}

impl Manner {
    fn of(byte: u8) -> Self {
        let bit = |at: u8| byte & (1 << at) != 0;
        Self { is_agent: bit(0), is_raw: bit(1), reads: bit(2), opens: bit(3), before_streams: bit(4) }
    }
}

/// What stays from one input to the next.
pub(crate) struct Bench {
    runtime: Runtime,
    config: Config,
    other: Option<Other>,
}

/// The other link, both its ends.
struct Other {
    near: Link,
    far: Incoming,
    _near_incoming: Incoming,
    _drivers: JoinSet<Closed>,
}

impl Bench {
    #[expect(clippy::expect_used, reason = "a runtime without I/O needs nothing that can be missing")]
    pub(crate) fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let config = Config {
            max_message: MESSAGE,
            max_streams: STREAMS,
            accept_queue: 4,
            control_queue: 8,
            control_bytes: 100_000,
            stream_window_total: 1 << 20,
            unread: Arc::new(Unread::limited(UNREAD)),
            close_timeout: Duration::from_millis(100),
            ..Config::default()
        };
        Self { runtime, config, other: None }
    }

    pub(crate) fn check(&mut self, input: &[u8]) -> Result<String, String> {
        let Self { runtime, config, other } = self;
        runtime.block_on(async {
            let work = async {
                let outcome = one(config, input).await?;
                let other = match other {
                    Some(other) => other,
                    None => other.insert(Other::start(config).await),
                };
                other.works().await.map_err(|error| format!("the other link does not work on: {error}"))?;
                Ok(outcome)
            };
            timeout(ENDS_WITHIN, work).await.unwrap_or_else(|_| Err(format!("it hangs for {ENDS_WITHIN:?}")))
        })
    }
}

/// One link from its start to its end.
async fn one(config: &Config, input: &[u8]) -> Result<String, String> {
    let (first, rest) = input.split_first().unwrap_or((&0, &[]));
    let (piece, bytes) = rest.split_first().unwrap_or((&0, &[]));
    let manner = Manner::of(*first);
    let (near, far) = duplex(SOCKET);
    let (role, own, peer) = if manner.is_agent {
        (Role::Agent, WebSocketRole::Client, WebSocketRole::Server)
    } else {
        (Role::ControlPlane, WebSocketRole::Server, WebSocketRole::Client)
    };
    let socket = WebSocketStream::from_raw_socket(Timed::new(far), own, Some(config.websocket())).await;
    let (link, incoming, driver) = mux::start(socket, role, config.clone());
    if !manner.before_streams {
        link.start_streams(Windows::Tuned);
    }
    let size = if *piece == 0 { bytes.len().max(1) } else { usize::from(*piece) };
    let watched = || {
        let (unread, open) = (config.unread.bytes(), link.stats().open_streams);
        // One message more than the limit, and as many streams more as the two ends can differ about.
        if unread > UNREAD + MESSAGE {
            return Err(format!("{unread} bytes are unread"));
        }
        if open > 2 * STREAMS { Err(format!("{open} streams are open")) } else { Ok(()) }
    };
    let sends = async {
        if manner.is_raw {
            send_raw(near, bytes, size, watched).await
        } else {
            let socket = WebSocketStream::from_raw_socket(near, peer, None).await;
            send(socket, bytes, size, watched).await
        }
    };
    let (closed, (), sent) = tokio::join!(driver, use_link(link.clone(), incoming, manner), sends);
    sent?;
    let stats = link.stats();
    if stats.open_streams != 0 {
        return Err(format!("{} streams are open on a link that has ended", stats.open_streams));
    }
    if config.unread.bytes() != 0 {
        return Err(format!("{} bytes are unread on a link that has ended", config.unread.bytes()));
    }
    let counted = [stats.accepted, stats.refused, stats.evicted, stats.messages_out].map(|count| count.min(6));
    Ok(format!("{manner:?} {counted:?} {}", kind_of(closed)))
}

/// Sends binary messages, takes what comes, and ends in order.
async fn send(
    mut socket: WebSocketStream<DuplexStream>,
    bytes: &[u8],
    size: usize,
    watched: impl Fn() -> Result<(), String>,
) -> Result<(), String> {
    for piece in bytes.chunks(size.min(MESSAGE)) {
        // It may have had enough.
        if socket.feed(Message::binary(piece.to_vec())).await.is_err() || socket.flush().await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
        watched()?;
    }
    let _gone = socket.close(None).await;
    while let Some(Ok(_)) = socket.next().await {
        watched()?;
    }
    Ok(())
}

async fn send_raw(
    near: DuplexStream,
    bytes: &[u8],
    size: usize,
    watched: impl Fn() -> Result<(), String>,
) -> Result<(), String> {
    let (mut reader, mut writer) = tokio::io::split(near);
    let write = async {
        for piece in bytes.chunks(size) {
            if writer.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
            watched()?;
        }
        let _gone = writer.shutdown().await;
        Ok(())
    };
    let read = async {
        let mut buffer = [0; 4096];
        while let Ok(1..) = reader.read(&mut buffer).await {}
    };
    let (written, ()) = tokio::join!(write, read);
    written
}

/// What a service does with a link, until it ends.
async fn use_link(link: Link, incoming: Incoming, manner: Manner) {
    let Incoming { mut control, mut streams } = incoming;
    let mut tasks = JoinSet::new();
    let mut held = Vec::new();
    if manner.opens {
        for _ in 0..2 {
            if let Ok(mut stream) = link.open().await {
                tasks.spawn(async move {
                    let _ended = stream.write_all(HELLO).await;
                    echo(stream).await;
                });
            }
        }
    }
    loop {
        tokio::select! {
            message = control.recv() => if message.is_none() { break },
            stream = streams.recv() => match stream {
                Some(stream) if manner.reads => { tasks.spawn(echo(stream)); }
                Some(stream) => held.push(stream),
                None => break,
            },
        }
    }
    drop(held);
    // Their streams have ended with the link.
    while tasks.join_next().await.is_some() {}
}

async fn echo(mut stream: MuxStream) {
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(buffer.get(..n).unwrap_or_default()).await.is_err() {
            return;
        }
    }
    let _ended = stream.shutdown().await;
}

impl Other {
    async fn start(config: &Config) -> Self {
        let (near, far) = duplex(SOCKET);
        let websocket = Some(config.websocket());
        let near = WebSocketStream::from_raw_socket(Timed::new(near), WebSocketRole::Server, websocket).await;
        let far = WebSocketStream::from_raw_socket(Timed::new(far), WebSocketRole::Client, websocket).await;
        let mut drivers = JoinSet::new();
        let mut end = |(link, incoming, driver): (Link, Incoming, Driver<Timed<DuplexStream>>)| {
            link.start_streams(Windows::Tuned);
            drivers.spawn(driver);
            (link, incoming)
        };
        let (near, near_incoming) = end(mux::start(near, Role::ControlPlane, config.clone()));
        let (_, far) = end(mux::start(far, Role::Agent, config.clone()));
        Self { near, far, _near_incoming: near_incoming, _drivers: drivers }
    }

    /// A stream there and back.
    async fn works(&mut self) -> Result<(), String> {
        let say = |error: std::io::Error| error.to_string();
        let mut near = self.near.open().await.map_err(|error| error.to_string())?;
        near.write_all(HELLO).await.map_err(say)?;
        let mut far = self.far.streams.recv().await.ok_or("it has ended")?;
        let mut heard = [0; HELLO.len()];
        far.read_exact(&mut heard).await.map_err(say)?;
        far.write_all(&heard).await.map_err(say)?;
        near.read_exact(&mut heard).await.map_err(say)?;
        if heard == HELLO { Ok(()) } else { Err(format!("it carries {heard:?}")) }
    }
}
