//! What a stream promises.

use std::{io::ErrorKind, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use mux::{Config, Role, Windows};

use crate::harness::{End, ends, sockets, soon, stream, until};

#[tokio::test]
async fn bytes_come_back_from_an_echo() {
    let (mut agent, control_plane) = ends().await;
    let (mut near, mut far) = stream(&control_plane, &mut agent).await;
    for size in [1, 2, 100, 16 * 1024, 16 * 1024 + 1, 200 * 1024] {
        let sent: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
        let mut got = vec![0; size];
        let echo = async {
            let mut buf = vec![0; size];
            far.read_exact(&mut buf).await.unwrap();
            far.write_all(&buf).await.unwrap();
        };
        let exchange = async {
            near.write_all(&sent).await.unwrap();
            near.read_exact(&mut got).await.unwrap();
        };
        soon("the echo", async { tokio::join!(echo, exchange) }).await;
        assert_eq!(sent, got);
    }
}

#[tokio::test]
async fn either_end_may_open() {
    let (agent, mut control_plane) = ends().await;
    let (near, far) = stream(&agent, &mut control_plane).await;
    assert_eq!(near.id(), far.id());
    assert_eq!(near.id() % 2, 1);
}

#[tokio::test]
async fn who_would_not_wait_is_told_that_it_would_have_to() {
    let (mut agent, control_plane) = ends().await;
    let mut open = Vec::new();
    while let Some(mut stream) = control_plane.link.try_open().unwrap() {
        stream.write_all(b"hi").await.unwrap();
        open.push(stream);
    }
    assert_eq!(open.len(), 256);
    let _taken = soon("the first", agent.streams.recv()).await.unwrap();
    until("room for one more", || match control_plane.link.try_open() {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    agent.driver.abort();
    soon("the end", control_plane.link.closed()).await;
    assert!(control_plane.link.try_open().is_err());
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let (mut agent, control_plane) = ends().await;
    for near_first in [true, false] {
        let (near, far) = stream(&control_plane, &mut agent).await;
        let (mut first, mut second) = if near_first { (near, far) } else { (far, near) };
        first.write_all(b"request").await.unwrap();
        first.shutdown().await.unwrap();
        let mut got = Vec::new();
        soon("the first end", second.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got, b"request");
        assert_eq!(first.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);

        second.write_all(b"response").await.unwrap();
        second.shutdown().await.unwrap();
        got.clear();
        soon("the second end", first.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got, b"response");
    }
    no_streams_left(&agent, &control_plane).await;
}

#[tokio::test]
async fn chunks_and_reads_can_be_mixed() {
    let (mut agent, control_plane) = ends().await;
    let (mut near, mut far) = stream(&control_plane, &mut agent).await;
    near.write_all(b"0123456789").await.unwrap();
    near.shutdown().await.unwrap();
    let mut three = [0; 3];
    soon("a read", far.read_exact(&mut three)).await.unwrap();
    assert_eq!(&three, b"012");
    assert_eq!(soon("a chunk", far.chunk()).await.unwrap().unwrap(), "3456789");
    assert_eq!(soon("the end", far.chunk()).await.unwrap(), None);
    assert_eq!(soon("the end again", far.chunk()).await.unwrap(), None);
    let mut rest = Vec::new();
    assert_eq!(soon("the end by a read", far.read_to_end(&mut rest)).await.unwrap(), 0);
}

/// In every state of the other direction, and whichever end drops.
#[tokio::test]
async fn a_dropped_stream_is_reset_at_the_other_end() {
    let (mut agent, control_plane) = ends().await;
    for near_drops in [true, false] {
        for kept_shut in [true, false] {
            for dropped_shut in [true, false] {
                if kept_shut && dropped_shut {
                    continue;
                }
                let case = format!("near_drops {near_drops}, kept_shut {kept_shut}, dropped_shut {dropped_shut}");
                let (near, far) = stream(&control_plane, &mut agent).await;
                let (mut dropped, mut kept) = if near_drops { (near, far) } else { (far, near) };
                if kept_shut {
                    kept.shutdown().await.unwrap();
                    soon("the half close", dropped.read_to_end(&mut Vec::new())).await.unwrap();
                }
                dropped.write_all(b"partial").await.unwrap();
                if dropped_shut {
                    dropped.shutdown().await.unwrap();
                }
                drop(dropped);

                let mut got = Vec::new();
                let end = soon(&case, kept.read_to_end(&mut got)).await;
                assert_eq!(got, b"partial", "{case}");
                if dropped_shut {
                    end.unwrap();
                    // That end has finished writing but does not read: ours must not write for ever.
                    let write = async { while kept.write(&[0; 4096]).await.is_ok() {} };
                    soon(&case, write).await;
                    assert_eq!(kept.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset, "{case}");
                } else {
                    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset, "{case}");
                }
            }
        }
    }
    no_streams_left(&agent, &control_plane).await;
}

#[tokio::test]
async fn a_writer_that_waits_for_credit_learns_of_the_reset() {
    let (mut agent, control_plane) = ends().await;
    let (mut near, far) = stream(&control_plane, &mut agent).await;
    let writer = tokio::spawn(async move {
        let mut written = 0;
        loop {
            match near.write(&[0; 64 * 1024]).await {
                Ok(n) => written += n,
                Err(error) => return (written, error),
            }
        }
    });
    until("the window to fill", || {
        let sent = control_plane.link.stats().bytes_out;
        if sent >= 256 * 1024 { Ok(()) } else { Err(sent) }
    })
    .await;
    drop(far);
    let (written, error) = soon("the reset", writer).await.unwrap();
    assert_eq!(written, 256 * 1024 - 2, "the window, less what opened the stream");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

pub async fn no_streams_left(agent: &End, control_plane: &End) {
    for (name, end) in [("agent", agent), ("control plane", control_plane)] {
        until(&format!("the streams of the {name} to be gone"), || {
            let stats = end.link.stats();
            if stats.open_streams == 0 { Ok(()) } else { Err(stats) }
        })
        .await;
    }
}

/// The acknowledgement of a stream waits a moment for company; more than a message holds may come just when it goes.
#[tokio::test]
async fn what_is_written_while_the_acknowledgement_waits_goes_on_with_it() {
    /// As much as is taken while the link does not move.
    const LENGTH: usize = 80 * 1024;
    let config = Config::default();
    let (client, server) = sockets(&config).await;
    let (link, mut incoming, mut driver) = mux::start(client, Role::Agent, config.clone());
    let control_plane = End::new(server, Role::ControlPlane, &config);
    link.start_streams(Windows::Tuned);
    control_plane.link.start_streams(Windows::Tuned);
    let first = async {
        let mut near = control_plane.link.open().await.unwrap();
        near.write_all(b"hi").await.unwrap();
        let mut far = incoming.streams.recv().await.unwrap();
        far.write_all(b"yo").await.unwrap();
        near.read_exact(&mut [0; 2]).await.unwrap();
        // With it, the answer to yamux's own ping has come: nothing else will move the link.
        control_plane.link.send("mark".to_owned()).await.unwrap();
        incoming.control.recv().await.unwrap();
        let mut second = control_plane.link.open().await.unwrap();
        second.write_all(b"hi").await.unwrap();
        (near, far, second, incoming.streams.recv().await.unwrap())
    };
    let (_near, _far, mut near, mut far) = tokio::select! {
        pair = soon("a stream", first) => pair,
        closed = &mut driver => panic!("{closed}"),
    };
    let pinned = std::pin::Pin::new(&mut driver);
    assert!(pinned.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
    // The acknowledgement waits now. Nobody moves the link until its time has come, so both are due in the same round.
    soon("room for the bytes", far.write_all(&[7; LENGTH])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let driver = tokio::spawn(driver);
    let mut got = vec![0; LENGTH];
    soon("all of it", near.read_exact(&mut got)).await.unwrap();
    assert!(got.iter().all(|byte| *byte == 7));
    driver.abort();
}
