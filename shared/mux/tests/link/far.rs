//! A link over a long way.

use std::time::{Duration, Instant};

use mux::{Config, Role, Windows};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::sleep_until,
};

use crate::harness::{End, handshake, stream, tcp, within};

/// Two sockets between which everything takes `delay`, each way.
async fn far_apart(delay: Duration) -> (TcpStream, TcpStream) {
    let (near, near_end) = tcp().await;
    let (far_end, far) = tcp().await;
    let (near_end, far_end) = (near_end.into_split(), far_end.into_split());
    for (mut reader, mut writer) in [(near_end.0, far_end.1), (far_end.0, near_end.1)] {
        let (sender, mut receiver) = mpsc::channel(4096);
        tokio::spawn(async move {
            let mut piece = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = reader.read(&mut piece).await {
                if sender.send((tokio::time::Instant::now() + delay, piece[..n].to_vec())).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            while let Some((due, piece)) = receiver.recv().await {
                sleep_until(due).await;
                if writer.write_all(&piece).await.is_err() {
                    return;
                }
            }
        });
    }
    (near, far)
}

/// With a window that does not grow, a round trip carries 256 KiB.
#[tokio::test]
async fn a_stream_is_not_held_up_by_a_long_way() {
    const TOTAL: usize = 24 << 20;
    const DELAY: Duration = Duration::from_millis(20);
    let mut took = Vec::new();
    for windows in [Windows::Fixed, Windows::Tuned] {
        let config = Config::default();
        let (near, far) = far_apart(DELAY).await;
        let (near, far) = handshake(near, far, &config).await;
        let (mut agent, control_plane) =
            (End::new(near, Role::Agent, &config), End::new(far, Role::ControlPlane, &config));
        agent.link.start_streams(windows);
        control_plane.link.start_streams(windows);
        let (mut near, mut far) = stream(&control_plane, &mut agent).await;
        let begun = Instant::now();
        let write = async { near.write_all(&vec![7; TOTAL]).await.unwrap() };
        let read = async { far.read_exact(&mut vec![0; TOTAL]).await.unwrap() };
        within(Duration::from_secs(60), "a transfer", async { tokio::join!(write, read) }).await;
        took.push(begun.elapsed());
    }
    let windows = u32::try_from(TOTAL / (256 * 1024)).unwrap();
    assert!(took[0] >= windows / 2 * (2 * DELAY), "{took:?}: the way is not as long as it should be");
    assert!(took[1] < took[0] / 3, "{took:?}: windows that grow carry hardly more");
}
