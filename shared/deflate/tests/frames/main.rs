//! A WebSocket over the layer: over its like, and over frames as other libraries make them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod choppy;
mod handshake;
mod made;
mod violations;

use std::time::Duration;

use bytes::Bytes;
use choppy::Choppy;
use deflate::Deflated;
use flate2::{Compress, Compression, FlushCompress};
use futures::{SinkExt as _, StreamExt as _};
use proptest::prelude::*;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

const LIMIT: usize = 64 * 1024;

fn config() -> Option<WebSocketConfig> {
    // So that frames meet in its buffer now and then.
    Some(WebSocketConfig::default().max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT)).write_buffer_size(4096))
}

type Socket = WebSocketStream<Deflated<Choppy>>;

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(20), future).await.unwrap() })
}

async fn server(connection: Choppy, behind: Bytes) -> Socket {
    let connection = Deflated::accepted(connection, behind, LIMIT);
    WebSocketStream::from_raw_socket(connection, Role::Server, config()).await
}

/// After a handshake whose answer comes together with the first frames.
async fn client(mut connection: Choppy) -> Socket {
    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n";
    connection.comes_first(HEAD);
    let mut connection = Deflated::offering(connection);
    let mut head: Vec<u8> = Vec::new();
    while head.len() < HEAD.len() {
        let mut some = [0; 100];
        let read = tokio::io::AsyncReadExt::read(&mut connection, &mut some).await.unwrap();
        head.extend(&some[..read]);
    }
    assert_eq!(head, HEAD);
    connection.settle(Some(LIMIT)).unwrap();
    WebSocketStream::from_raw_socket(connection, Role::Client, config()).await
}

/// All messages up to what ends them.
async fn read(mut socket: Socket) -> (Vec<Message>, Option<Error>) {
    let mut messages = Vec::new();
    loop {
        match socket.next().await {
            Some(Ok(message)) => messages.push(message),
            Some(Err(error)) => return (messages, Some(error)),
            None => return (messages, None),
        }
    }
}

/// As deflate is used here, with nothing of ours.
fn packed(data: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(data.len() + 1024);
    compress.compress_vec(data, &mut out, FlushCompress::Sync).unwrap();
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

fn text() -> impl Strategy<Value = String> {
    // Some get smaller, some do not.
    prop_oneof!["[a-c]{0,600}", "[ -~]{200,400}", (1..40_000_usize).prop_map(|size| "word ".repeat(size / 5))]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        3 => text().prop_map(Message::text),
        1 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(Message::binary),
        1 => prop::collection::vec(any::<u8>(), 0..100).prop_map(|data| Message::Ping(data.into())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn messages_between_two_of_them_arrive_as_they_were(
        messages in prop::collection::vec(message(), 1..8),
        from_client: bool,
        flushes in any::<u8>(),
        seed: u64,
    ) {
        let (near, far) = Choppy::pair(seed);
        let wire = near.wire();
        let sends = messages.clone();
        let (sent, (received, end)) = block_on(async {
            let (mut near, far) = if from_client {
                (client(near).await, server(far, Bytes::new()).await)
            } else {
                (server(near, Bytes::new()).await, client(far).await)
            };
            // Both are dropped where they end: a client waits for the server to go.
            let send = async move {
                for (at, message) in sends.iter().enumerate() {
                    near.feed(message.clone()).await?;
                    if flushes & (1 << at) != 0 {
                        near.flush().await?;
                    }
                }
                near.close(None).await?;
                // The pongs, and the other half of the close.
                while near.next().await.is_some_and(|message| message.is_ok()) {}
                Ok::<_, Error>(())
            };
            tokio::join!(send, read(far))
        });
        sent.unwrap();
        prop_assert!(end.is_none(), "{:?}", end);
        let (close, received) = received.split_last().unwrap();
        prop_assert!(close.is_close());
        prop_assert_eq!(received, &messages[..]);
        let (is, was) = (wire.written(), messages.iter().map(|message| message.len() + 14).sum::<usize>() + 14);
        prop_assert!(is <= was, "{} bytes for {}", is, was);
        let words = messages.iter().filter(|m| m.len() > 2000 && m.is_text()).map(Message::len).sum::<usize>();
        prop_assert!(is <= was - words / 2, "{} bytes for {}, of which {} repeat themselves", is, was, words);
    }
}
