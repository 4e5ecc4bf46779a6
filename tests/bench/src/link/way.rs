//! A long way: everything arrives later by a fixed time, both ways, and nothing else changes.

use super::ends::End;
use anyhow::Result;
use bytes::{Bytes, BytesMut};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};

const PIECE: usize = 128 * 1024;
/// Bytes under way in one direction: 60 ms of 2 GB/s and more.
const UNDER_WAY: usize = 192 << 20;
const PIECES: usize = 16 * 1024;

/// A proxy in a thread of its own.
pub(crate) struct Way(End);

impl Way {
    /// To `target`, which everything reaches `delay` later.
    pub(crate) async fn start(target: SocketAddr, delay: Duration) -> Result<Self> {
        let proxy = async move |listener: TcpListener| {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(carry(near, target, delay));
            }
        };
        Ok(Self(End::listen("way", proxy).await?))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

async fn carry(near: TcpStream, target: SocketAddr, delay: Duration) -> Result<()> {
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_reader, near_writer), (far_reader, far_writer)) = (near.into_split(), far.into_split());
    let mut tasks = JoinSet::new();
    for (mut reader, mut writer) in [(near_reader, far_writer), (far_reader, near_writer)] {
        if delay.is_zero() {
            tasks.spawn(async move {
                let mut buffer = vec![0; PIECE];
                while let Ok(n @ 1..) = reader.read(&mut buffer).await
                    && writer.write_all(buffer.get(..n).unwrap_or_default()).await.is_ok()
                {}
            });
            continue;
        }
        let (sender, receiver) = mpsc::channel(PIECES);
        let room = Arc::new(Semaphore::new(UNDER_WAY));
        tasks.spawn(take(reader, sender, Arc::clone(&room), delay));
        tasks.spawn(give(writer, receiver, room));
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn take(
    mut reader: OwnedReadHalf,
    sender: mpsc::Sender<(Instant, Bytes)>,
    room: Arc<Semaphore>,
    delay: Duration,
) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        let Ok(n @ 1..) = reader.read_buf(&mut buffer).await else { return };
        let Ok(permit) = room.acquire_many(u32::try_from(n).unwrap_or(u32::MAX)).await else { return };
        permit.forget();
        if sender.send((Instant::now() + delay, buffer.split().freeze())).await.is_err() {
            return;
        }
    }
}

async fn give(mut writer: OwnedWriteHalf, mut receiver: mpsc::Receiver<(Instant, Bytes)>, room: Arc<Semaphore>) {
    while let Some((due, piece)) = receiver.recv().await {
        sleep_until(due).await;
        if writer.write_all(&piece).await.is_err() {
            return;
        }
        room.add_permits(piece.len());
    }
}
