//! A comparison of speeds; alone in its binary, so that no other test takes its processor.

#![expect(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "a test fails by panicking")]

#[path = "../link/harness.rs"]
#[allow(dead_code, reason = "the other test uses all of it")]
mod harness;

use std::time::{Duration, Instant};

use harness::{ends_with, soon, stream, within};
use mux::{Config, MuxStream, Windows};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn transfer(near: &mut MuxStream, far: &mut MuxStream, total: usize) -> Duration {
    let start = Instant::now();
    let write = async {
        let buf = vec![7; 64 * 1024];
        for _ in 0..total / buf.len() {
            near.write_all(&buf).await.unwrap();
        }
    };
    let read = async {
        let mut got = 0;
        while got < total {
            got += far.chunk().await.unwrap().unwrap().len();
        }
    };
    within(Duration::from_secs(60), "a transfer", async { tokio::join!(write, read) }).await;
    start.elapsed()
}

/// The best of each, taken in turns, so that what else runs on the machine hits both alike.
#[tokio::test]
async fn a_stuck_stream_does_not_slow_the_others() {
    const TOTAL: usize = 32 << 20;
    let (mut free_agent, free_control) = ends_with(&Config::default(), Windows::Fixed).await;
    let (mut near, mut far) = stream(&free_control, &mut free_agent).await;
    let (mut agent, control_plane) = ends_with(&Config::default(), Windows::Fixed).await;
    let (mut stuck_near, mut stuck_far) = stream(&control_plane, &mut agent).await;
    let (mut beside_near, mut beside_far) = stream(&control_plane, &mut agent).await;
    let stuck = tokio::spawn(async move {
        let buf = vec![1; 64 * 1024];
        let mut written = 0;
        while written < 1 << 20 {
            written += stuck_near.write(&buf).await.unwrap();
        }
        stuck_near
    });

    let (mut alone, mut beside) = (Duration::MAX, Duration::MAX);
    let ratio = |alone: Duration, beside: Duration| alone.as_secs_f64() / beside.as_secs_f64();
    for round in 0..40 {
        if round >= 5 && ratio(alone, beside) >= 0.9 {
            break;
        }
        alone = alone.min(transfer(&mut near, &mut far, TOTAL).await);
        beside = beside.min(transfer(&mut beside_near, &mut beside_far, TOTAL).await);
    }
    let ratio = ratio(alone, beside);
    assert!(ratio >= 0.9, "alone {alone:?}, beside a stuck stream {beside:?}: {ratio:.2}");
    assert!(!stuck.is_finished(), "it was not stuck");
    let mut buf = vec![0; 1 << 20];
    soon("the stuck stream to go on", stuck_far.read_exact(&mut buf)).await.unwrap();
    soon("its writer", stuck).await.unwrap();
}
