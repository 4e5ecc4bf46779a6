//! Memory of a process that does nothing but run a link; alone in its binary, so that nothing else counts.

#![expect(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "a test fails by panicking")]

#[path = "../link/harness.rs"]
#[allow(dead_code, reason = "the other test uses all of it")]
mod harness;

use harness::{ends, soon, stream, until};
use tokio::io::AsyncWriteExt;

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn memory_is_flat_under_abandoned_streams_and_bounded_by_windows() {
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

    // Nobody reads 100 streams that are written to for ever: a window each waits at the reader, and what the writer
    // may queue at the other end, 12 frames of 16 KiB.
    let before = resident();
    let base = agent.link.stats().bytes_in;
    let mut writers = tokio::task::JoinSet::new();
    let mut unread = Vec::new();
    for _ in 0..100 {
        let (mut near, far) = stream(&control_plane, &mut agent).await;
        writers.spawn(async move { while near.write_all(&[0; 16 * 1024]).await.is_ok() {} });
        unread.push(far);
    }
    until("the windows to fill", || {
        let received = agent.link.stats().bytes_in - base;
        if received >= 100 * 256 * 1024 { Ok(()) } else { Err(received) }
    })
    .await;
    let full = agent.link.stats().bytes_in;
    // The link still works, and what it carries now is not the stuck streams.
    for i in 0..1000 {
        control_plane.link.send(format!("{i}")).await.unwrap();
        soon("a text", agent.control.recv()).await.unwrap();
    }
    assert!(agent.link.stats().bytes_in - full < 100 * 1024, "stuck streams go on");
    let used = resident().saturating_sub(before);
    assert!(used < 100 * (256 + 12 * 16) * 1024, "100 stuck streams cost {used} bytes");
}
