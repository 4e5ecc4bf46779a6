//! The other end is the `yamux` crate, as other agents in Rust have it. Go's is tested end to end.

use bytes::Bytes;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, SinkExt, StreamExt, future::poll_fn};
use mux::{Config, MuxStream, Role, Windows};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinSet,
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::harness::{End, Socket, sockets, soon};

/// The bytes of a WebSocket's binary messages.
fn bytes_of(ws: Socket, tasks: &mut JoinSet<()>) -> DuplexStream {
    let (near, far) = duplex(256 * 1024);
    let (mut sink, mut stream) = ws.split();
    let (mut reader, mut writer) = tokio::io::split(far);
    tasks.spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(bytes) = message
                && writer.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
    });
    tasks.spawn(async move {
        let mut buf = vec![0; 10_000];
        while let Ok(n @ 1..) = reader.read(&mut buf).await {
            if sink.send(Message::Binary(Bytes::copy_from_slice(&buf[..n]))).await.is_err() {
                return;
            }
        }
    });
    near
}

/// Echoes all streams of ours, and opens as many as it is asked for.
async fn peer(ws: Socket, mode: yamux::Mode, opens: usize) {
    let mut tasks = JoinSet::new();
    let io = bytes_of(ws, &mut tasks).compat();
    let mut connection = yamux::Connection::new(io, yamux::Config::default(), mode);
    for _ in 0..opens {
        let mut stream = poll_fn(|cx| connection.poll_new_outbound(cx)).await.unwrap();
        tasks.spawn(async move {
            stream.write_all(b"question").await.unwrap();
            stream.close().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"answer");
        });
    }
    while let Some(Ok(stream)) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
        tasks.spawn(async move {
            let (reader, mut writer) = futures::AsyncReadExt::split(stream);
            if futures::io::copy(reader, &mut writer).await.is_ok() {
                writer.close().await.unwrap();
            }
        });
    }
}

async fn echoed(mut stream: MuxStream, length: usize) {
    let sent: Vec<u8> = (0_u8..251).cycle().take(length).collect();
    let mut got = Vec::new();
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    tokio::join!(write, async { reader.read_to_end(&mut got).await.unwrap() });
    assert!(got == sent, "{} of {length} bytes came back", got.len());
}

#[tokio::test]
async fn it_is_understood_in_either_role() {
    for role in [Role::ControlPlane, Role::Agent] {
        let config = Config::default();
        let (client, server) = sockets(&config).await;
        let (ours, theirs, mode) = match role {
            Role::ControlPlane => (server, client, yamux::Mode::Client),
            Role::Agent => (client, server, yamux::Mode::Server),
        };
        let mut end = End::new(ours, role, &config);
        end.link.start_streams(Windows::Fixed);
        let peer = tokio::spawn(peer(theirs, mode, 20));
        let mut tasks = JoinSet::new();
        for length in [0, 1, 100_000, 3 << 20, 8 << 20] {
            tasks.spawn(echoed(soon("open", end.link.open()).await.unwrap(), length));
        }
        for _ in 0..20 {
            let mut stream = soon("a stream of the peer", end.streams.recv()).await.unwrap();
            tasks.spawn(async move {
                let mut question = Vec::new();
                stream.read_to_end(&mut question).await.unwrap();
                assert_eq!(question, b"question");
                stream.write_all(b"answer").await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
        for _ in 0..25 {
            soon("all streams", tasks.join_next()).await.unwrap().unwrap();
        }
        // More than may be left unacknowledged, abandoned half-way.
        for _ in 0..600 {
            let mut stream = soon("open", end.link.open()).await.unwrap();
            stream.write_all(b"abandoned").await.unwrap();
        }
        echoed(soon("open", end.link.open()).await.unwrap(), 1000).await;
        assert!(!end.driver.is_finished() && !peer.is_finished());
        peer.abort();
    }
}
