//! A stream that is given up is noticed by whoever does not read it.

use std::{io::ErrorKind, task::Poll};

use duplex::Duplex;
use mux::{CloseCode, MuxStream};
use tokio::io::AsyncWriteExt;

use crate::harness::{End, ends, soon, stream};

async fn reset(stream: &mut MuxStream) -> std::io::Error {
    soon("the reset", std::future::poll_fn(|cx| stream.poll_reset(cx))).await
}

async fn unharmed(stream: &mut MuxStream) {
    std::future::poll_fn(|cx| {
        assert!(stream.poll_reset(cx).is_pending(), "a reset without a cause");
        Poll::Ready(())
    })
    .await;
}

/// A stream whose far end has more to read than it was woken for.
async fn unread(control_plane: &End, agent: &mut End) -> (MuxStream, MuxStream) {
    let (mut near, mut far) = stream(control_plane, agent).await;
    near.write_all(b"one").await.unwrap();
    assert_eq!(soon("a chunk", far.chunk()).await.unwrap().unwrap(), "one");
    near.write_all(b"two").await.unwrap();
    (near, far)
}

#[tokio::test]
async fn a_reset_is_noticed_while_a_chunk_waits_unread() {
    let (mut agent, control_plane) = ends().await;
    let (near, mut far) = unread(&control_plane, &mut agent).await;
    unharmed(&mut far).await;
    drop(near);
    assert_eq!(reset(&mut far).await.kind(), ErrorKind::ConnectionReset);
    assert_eq!(soon("the chunk", far.chunk()).await.unwrap().unwrap(), "two");
    assert_eq!(soon("the reset", far.chunk()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_is_noticed_while_nobody_reads() {
    let (mut agent, control_plane) = ends().await;
    let (near, mut far) = stream(&control_plane, &mut agent).await;
    let waiting = tokio::spawn(async move { reset(&mut far).await });
    drop(near);
    assert_eq!(soon("the waiter", waiting).await.unwrap().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_is_noticed_after_the_peers_end() {
    let (mut agent, control_plane) = ends().await;
    let (mut near, mut far) = stream(&control_plane, &mut agent).await;
    near.shutdown().await.unwrap();
    assert_eq!(soon("the end", far.chunk()).await.unwrap(), None);
    unharmed(&mut far).await;
    let waiting = tokio::spawn(async move { reset(&mut far).await });
    drop(near);
    assert_eq!(soon("the waiter", waiting).await.unwrap().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn the_end_of_the_link_is_noticed_by_whoever_does_not_read() {
    for cut in [true, false] {
        let (mut agent, control_plane) = ends().await;
        let (mut complete, mut other) = stream(&control_plane, &mut agent).await;
        complete.write_all(b"rest").await.unwrap();
        for stream in [&mut complete, &mut other] {
            stream.shutdown().await.unwrap();
        }
        let (near, mut far) = unread(&control_plane, &mut agent).await;
        unharmed(&mut far).await;
        let waiting = tokio::spawn(async move { reset(&mut far).await });
        if cut {
            agent.driver.abort();
        } else {
            agent.link.close(CloseCode::Away, "test");
        }
        assert_eq!(soon("the waiter", waiting).await.unwrap().kind(), ErrorKind::ConnectionAborted);
        // What had ended before keeps its end.
        assert_eq!(soon("the chunk", other.chunk()).await.unwrap().unwrap(), "rest");
        assert_eq!(soon("the end", other.chunk()).await.unwrap(), None);
        unharmed(&mut other).await;
        drop(near);
    }
}
