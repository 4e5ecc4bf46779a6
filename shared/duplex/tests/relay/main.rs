//! What a relay promises, over pipes of this process.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod scripted;

use std::cell::Cell;
use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use duplex::{Broken, Relay, Relayed, Socket, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use scripted::Scripted;

async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(output) => output,
        Err(_) => panic!("waited 20 s for {what}"),
    }
}

/// The far ends of a relay's two pipes, and the relay itself.
fn pipes(capacity: usize) -> (DuplexStream, DuplexStream, impl Future<Output = (Result<(), Broken>, Relayed)>) {
    let (left, left_end) = duplex(capacity);
    let (right, right_end) = duplex(capacity);
    let relaying = async move {
        let total = Cell::new(Relayed::default());
        let result = relay(Socket::new(left_end), Socket::new(right_end), |now| {
            assert_ne!(now, Relayed::default(), "reports nothing");
            let before = total.get();
            total.set(Relayed {
                from_left: before.from_left + now.from_left,
                from_right: before.from_right + now.from_right,
            });
        })
        .await;
        (result, total.get())
    };
    (left, right, relaying)
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    for left_first in [true, false] {
        let (left, right, relaying) = pipes(1024);
        let (mut first, mut second) = if left_first { (left, right) } else { (right, left) };
        let using = async {
            first.write_all(b"request").await.unwrap();
            first.shutdown().await.unwrap();
            let mut got = String::new();
            second.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "request");
            second.write_all(b"and response").await.unwrap();
            second.shutdown().await.unwrap();
            got.clear();
            first.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "and response");
        };
        let ((), (result, total)) = soon("the exchange", async { tokio::join!(using, relaying) }).await;
        result.unwrap();
        let (from_left, from_right) = if left_first { (7, 12) } else { (12, 7) };
        assert_eq!(total, Relayed { from_left, from_right });
    }
}

#[tokio::test]
async fn bulk_arrives_whole_both_ways_at_once() {
    const TOTAL: usize = 5_000_000;
    let (left, right, relaying) = pipes(50_000);
    let use_end = |end: DuplexStream, seed: usize| async move {
        let (mut read, mut write) = tokio::io::split(end);
        let sent: Vec<u8> = (0..TOTAL).map(|i| (i * 31 + i / 251 + seed).to_le_bytes()[0]).collect();
        let mut got = Vec::new();
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        tokio::join!(writing, async { read.read_to_end(&mut got).await.unwrap() });
        (sent, got)
    };
    let ((from_left, at_left), (from_right, at_right), (result, total)) =
        soon("the transfer", async { tokio::join!(use_end(left, 1), use_end(right, 2), relaying) }).await;
    result.unwrap();
    assert!(from_left == at_right && from_right == at_left, "the bytes differ");
    assert_eq!(total, Relayed { from_left: TOTAL as u64, from_right: TOTAL as u64 });
}

const DATA: Bytes = Bytes::from_static(b"data");

/// Relays in a task and does `cause` once that has come to rest.
async fn broken_by(left: &Scripted, right: &Scripted, cause: impl FnOnce()) -> Broken {
    let relaying = tokio::spawn(relay(left.clone(), right.clone(), |_| {}));
    tokio::task::yield_now().await;
    assert!(!relaying.is_finished(), "ended before anything was wrong");
    cause();
    soon("the relay to end", relaying).await.unwrap().unwrap_err()
}

fn side(broken: &Broken) -> (&'static str, ErrorKind) {
    match broken {
        Broken::Left(error) => ("left", error.kind()),
        Broken::Right(error) => ("right", error.kind()),
    }
}

#[tokio::test]
async fn a_reset_is_noticed_while_the_other_side_takes_nothing() {
    let sender = || Scripted::with(|script| script.chunks = [DATA, DATA].into());
    let stuck = || Scripted::with(|script| script.stuck = true);

    let (left, right) = (sender(), stuck());
    let broken = broken_by(&left, &right, || left.reset()).await;
    assert_eq!(side(&broken), ("left", ErrorKind::ConnectionReset));

    let (left, right) = (stuck(), sender());
    let broken = broken_by(&left, &right, || right.reset()).await;
    assert_eq!(side(&broken), ("right", ErrorKind::ConnectionReset));
}

/// As a stream does whose peer has answered, ended, and gone.
#[tokio::test]
async fn what_a_side_said_before_it_took_no_more_arrives_whole() {
    let left = Scripted::with(|script| (script.chunks, script.stuck) = ([DATA].into(), true));
    let right = Scripted::with(|script| {
        (script.chunks, script.ended, script.shut) = ([DATA, DATA].into(), true, true);
    });
    let broken = broken_by(&left, &right, || left.change(|script| script.stuck = false)).await;
    assert_eq!(side(&broken).0, "right");
    assert_eq!(left.written(), 2 * DATA.len());
}

/// A socket tells of its peer's end only behind what is unread, which stays there while the other side takes nothing.
#[tokio::test]
async fn a_socket_whose_peer_is_gone_ends_a_relay_that_is_stuck_both_ways() {
    let (peer, socket) = duplex(1024);
    let other = Scripted::with(|script| (script.chunks, script.stuck) = (vec![DATA; 1000].into(), true));
    let (mut read, mut write) = tokio::io::split(peer);
    let relaying = tokio::spawn(relay(Socket::new(socket), other, |_| {}));
    soon("the relay to write", read.read_exact(&mut [0; 1])).await.unwrap();
    while tokio::time::timeout(Duration::from_millis(50), write.write_all(&[0; 1024])).await.is_ok() {}
    assert!(!relaying.is_finished(), "ended before anything was wrong");
    drop((read, write));
    let broken = soon("the relay to end", relaying).await.unwrap().unwrap_err();
    assert_eq!(side(&broken), ("left", ErrorKind::BrokenPipe));
}

#[tokio::test]
async fn a_reset_is_noticed_after_the_end_of_that_side() {
    let (left, right) = (Scripted::with(|script| script.ended = true), Scripted::default());
    let broken = broken_by(&left, &right, || left.reset()).await;
    assert_eq!(side(&broken), ("left", ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn the_side_that_failed_is_named_whether_read_or_written() {
    for left_fails in [true, false] {
        let name = if left_fails { "left" } else { "right" };
        for reading in [true, false] {
            let (left, right) = (Scripted::default(), Scripted::default());
            let (bad, good) = if left_fails { (&left, &right) } else { (&right, &left) };
            let broken = broken_by(&left, &right, || {
                if reading {
                    bad.reset();
                } else {
                    bad.change(|script| script.shut = true);
                    good.change(|script| script.chunks.push_back(DATA));
                }
            })
            .await;
            let kind = if reading { ErrorKind::ConnectionReset } else { ErrorKind::BrokenPipe };
            assert_eq!(side(&broken), (name, kind));
        }
    }
}

#[tokio::test]
async fn an_idle_relay_holds_no_bytes() {
    let (left, right) = (Scripted::default(), Scripted::default());
    let chunk = Bytes::from(vec![0; 100_000]);
    left.change(|script| script.chunks.push_back(chunk.clone()));
    let relaying = relay(left.clone(), right.clone(), |_| {});
    assert!(size_of_val(&relaying) < 256, "{} bytes", size_of_val(&relaying));
    let task = tokio::spawn(relaying);
    tokio::task::yield_now().await;
    assert_eq!(right.written(), chunk.len());
    assert!(chunk.is_unique(), "a chunk that was passed on is still held");
    task.abort();
}

#[tokio::test]
async fn one_that_is_given_up_may_carry_on_what_the_right_side_sends_and_nothing_to_it() {
    let (mut left, left_end) = duplex(64);
    let (mut right, right_end) = duplex(64);
    let mut relay = Relay::new(Socket::new(left_end), Socket::new(right_end));
    left.write_all(b"too late").await.unwrap();
    right.write_all(b"the rest").await.unwrap();
    right.shutdown().await.unwrap();
    soon("the right side's end", std::future::poll_fn(|cx| relay.poll_left(cx))).await.unwrap();
    drop(relay);
    for (mut end, expected) in [(left, "the rest"), (right, "")] {
        let mut got = String::new();
        soon("the end", end.read_to_string(&mut got)).await.unwrap();
        assert_eq!(got, expected);
    }
}
