//! Memory of a process that does nothing but run a link; alone in its binary, so that nothing else counts.

#![expect(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "a test fails by panicking")]

#[path = "../link/harness.rs"]
#[allow(dead_code, reason = "the other test uses all of it")]
mod harness;

use harness::{ends, soon, stream, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn memory_is_flat_under_abandoned_streams_and_bounded_under_unread_ones() {
    let (mut agent, control_plane) = ends().await;
    let mut after_first = 0;
    for round in 0..10 {
        for _ in 0..1000 {
            let (mut near, mut far) = stream(&control_plane, &mut agent).await;
            near.write_all(&[0; 32 * 1024]).await.unwrap();
            soon("a chunk", far.chunk()).await.unwrap();
        }
        until("the streams to be gone", || {
            let open = agent.link.stats().open_streams + control_plane.link.stats().open_streams;
            if open == 0 { Ok(()) } else { Err(open) }
        })
        .await;
        if round == 0 {
            after_first = resident();
        }
    }
    let grown = resident().saturating_sub(after_first);
    assert!(grown < 4 << 20, "9,000 more abandoned streams cost {grown} bytes");

    // Nobody reads 400 streams that bring nearly a window each. At the reader 64 MiB of it may wait; at the writer's end, in this
    // process too, 1 MiB and 16 KiB for each stream.
    const STREAMS: usize = 400;
    const BROUGHT: usize = 255 * 1024;
    const UNREAD: usize = 64 << 20;
    let before = resident();
    let mut writers = tokio::task::JoinSet::new();
    let mut unread = Vec::new();
    for _ in 0..STREAMS {
        let (mut near, far) = stream(&control_plane, &mut agent).await;
        writers.spawn(async move {
            let written = near.write_all(&[0; BROUGHT]).await;
            (near, written)
        });
        unread.push(far);
    }
    let mut most = 0;
    until("as many streams to be reset as do not fit", || {
        most = most.max(resident().saturating_sub(before));
        let reset = agent.link.stats().evicted as usize;
        if reset >= STREAMS - UNREAD / BROUGHT { Ok(()) } else { Err(reset) }
    })
    .await;
    let writers = soon("the writers", writers.join_all()).await;
    most = most.max(resident().saturating_sub(before));
    assert!(most < (UNREAD + (1 << 20) + STREAMS * 16 * 1024) * 5 / 4, "{STREAMS} stuck streams cost {most} bytes");
    // The link still works, and those that were left alone are whole.
    control_plane.link.send("text".to_owned()).await.unwrap();
    soon("a text", agent.control.recv()).await.unwrap();
    let mut lost = 0;
    for mut far in unread {
        match soon("what it brought", far.read_exact(&mut vec![0; BROUGHT])).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted, "{error}");
                lost += 1;
            }
        }
    }
    assert_eq!(lost, agent.link.stats().evicted);
    drop(writers);
}
