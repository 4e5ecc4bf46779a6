//! The layer below a client's handshake.

use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::http::{Response, StatusCode};

/// Answers a handshake, all at once with what follows.
async fn answers(far: &mut Choppy, answer: impl FnOnce(&str) -> Vec<u8>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(far.read_u8().await.unwrap());
    }
    let request = String::from_utf8(request).unwrap();
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    far.write_all(&answer(&derive_accept_key(key.as_bytes()))).await.unwrap();
}

fn head(key: &str, end: &str) -> Vec<u8> {
    ["HTTP/1.1 101 Yes", "connection: upgrade", "upgrade: websocket", &format!("sec-websocket-accept: {key}"), "", ""]
        .join(end)
        .into_bytes()
}

#[test]
fn frames_that_come_with_the_answer_are_not_lost() {
    for (seed, end) in (0..50).flat_map(|seed| [(seed, "\r\n"), (seed, "\n")]) {
        for limit in [Some(LIMIT), None] {
            let first = if limit.is_some() {
                made::frame(0xc1, &packed(b"hello"), false)
            } else {
                made::frame(0x81, b"hello", false)
            };
            let (near, mut far) = Choppy::pair(seed);
            let dial = async {
                let (mut socket, _) = client_async("ws://a/", Deflated::offering(near)).await.unwrap();
                socket.get_mut().settle(limit).unwrap();
                assert_eq!(socket.get_ref().compresses(), limit.is_some());
                (socket.next().await.unwrap().unwrap(), socket.next().await.unwrap().unwrap())
            };
            let answer = answers(&mut far, |key| [head(key, end), first, made::frame(0x81, b"more", false)].concat());
            let (messages, ()) = block_on(async { tokio::join!(dial, answer) });
            assert_eq!(messages, (Message::text("hello"), Message::text("more")));
        }
    }
}

#[test]
fn why_a_server_refuses_is_read_with_its_answer() {
    let (near, mut far) = Choppy::pair(1 << 41);
    let mut refusal: Option<Response<Option<Vec<u8>>>> = None;
    let dial = async {
        let Err(Error::Http(response)) = client_async("ws://a/", Deflated::offering(near)).await else {
            panic!("opened")
        };
        refusal = Some(*response);
    };
    let answer = answers(&mut far, |_| b"HTTP/1.1 403 No\r\ncontent-length: 4\r\n\r\nnope".to_vec());
    block_on(async { tokio::join!(dial, answer) });
    let refusal = refusal.unwrap();
    assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
    assert_eq!(refusal.body().as_deref(), Some(&b"nope"[..]));
}

#[test]
fn an_answer_without_a_beginning_that_is_one_settles_nothing() {
    let (near, mut far) = Choppy::pair(2);
    let dial = async {
        let (mut socket, _) = client_async("ws://a/", Deflated::offering(near)).await.unwrap();
        socket.get_mut().settle(Some(LIMIT)).unwrap_err();
    };
    // Some skip empty lines before an answer.
    let answer = answers(&mut far, |key| [b"\r\n".to_vec(), head(key, "\r\n")].concat());
    block_on(async { tokio::join!(dial, answer) });
    assert!(Deflated::plain(()).settle(Some(LIMIT)).is_err());
    assert!(Deflated::plain(()).settle(None).is_ok());
}
