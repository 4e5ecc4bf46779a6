//! Datagrams at a fixed rate, and their echoes.

use crate::{link::ends::Thread, load::Latencies};
use anyhow::{Context, Result};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::{net::UdpSocket, sync::mpsc, time::sleep_until};

/// Of a datagram.
pub(super) const LENGTH: usize = 1200;
/// How many are offered per second, each way: 24 MB/s.
pub(super) const RATE: u32 = 20_000;
/// How often those that are due are sent.
const TICK: Duration = Duration::from_millis(1);
/// More than this many at once would not fit into the receiver's socket.
const BURST: u64 = 60;
/// Without any for this long, no more are on their way.
const LATE: Duration = Duration::from_millis(300);
/// Echoes that wait for their time: 60 ms at the rate, and some.
const WAITING: usize = 8192;

/// A server that sends every datagram back, in a thread of its own until it is dropped.
pub(super) struct Echo {
    address: SocketAddr,
    _thread: Thread,
}

/// What became of the datagrams of a window.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) sent: u64,
    /// Echoes of those.
    pub(super) received: u64,
    /// How long they were sent.
    pub(super) time: Duration,
    pub(super) latencies: Latencies,
}

impl Echo {
    /// Each echo leaves `delay` after the datagram has come.
    pub(super) async fn start(delay: Duration) -> Result<Self> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for datagrams")?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let work = async move || match UdpSocket::from_std(socket) {
            Ok(socket) => echo(socket, delay).await,
            Err(error) => eprintln!("cannot take datagrams: {error}"),
        };
        Ok(Self { address, _thread: Thread::start("echo", work).await? })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn echo(socket: UdpSocket, delay: Duration) {
    let (sender, mut waiting) = mpsc::channel::<(tokio::time::Instant, SocketAddr, Vec<u8>)>(WAITING);
    let take = async {
        let mut buffer = vec![0; 65_536];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
            let datagram = buffer.get(..length).unwrap_or_default();
            if delay.is_zero() {
                drop(socket.send_to(datagram, from).await);
            } else {
                // One that finds no room is lost.
                drop(sender.try_send((tokio::time::Instant::now() + delay, from, datagram.to_vec())));
            }
        }
    };
    let give = async {
        while let Some((due, to, datagram)) = waiting.recv().await {
            sleep_until(due).await;
            drop(socket.send_to(&datagram, to).await);
        }
    };
    tokio::select! {
        () = take => {}
        () = give => {}
    }
}

/// Sends [`RATE`] datagrams per second, and counts what comes back of those sent after `warm_up`, within `window`.
pub(super) async fn exchange(target: SocketAddr, warm_up: Duration, window: Duration) -> Result<Seen> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(target).await?;
    let started = Instant::now();
    let first = number(warm_up);
    let mut seen = Seen { time: window, ..Seen::default() };
    let mut take = |datagram: &[u8]| {
        let field =
            |at: usize| datagram.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        if let (Some(number), Some(sent)) = (field(0), field(8))
            && number >= first
        {
            seen.received += 1;
            let now = started.elapsed();
            seen.latencies.add(now.saturating_sub(Duration::from_micros(sent)));
        }
    };
    let (mut sent, mut skipped) = (0, 0);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut datagram = vec![0; LENGTH];
    let mut buffer = vec![0; LENGTH + 1];
    let mut counted = 0;
    while started.elapsed() < warm_up + window {
        tokio::select! {
            biased;
            _ = tick.tick() => {
                let due = number(started.elapsed());
                // Those that the client itself had no time for are not offered.
                skipped += (due - sent - skipped).saturating_sub(BURST);
                while sent + skipped < due {
                    let number = sent + skipped;
                    let now = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                    for (to, value) in datagram.chunks_exact_mut(8).zip([number, now]) {
                        to.copy_from_slice(&value.to_be_bytes());
                    }
                    // A full socket or a port that is not open is a loss like any other.
                    drop(socket.send(&datagram).await);
                    sent += 1;
                    counted += u64::from(number >= first);
                }
            }
            length = socket.recv(&mut buffer) => take(buffer.get(..length.unwrap_or_default()).unwrap_or_default()),
        }
    }
    while let Ok(length) = tokio::time::timeout(LATE, socket.recv(&mut buffer)).await {
        take(buffer.get(..length.unwrap_or_default()).unwrap_or_default());
    }
    seen.sent = counted;
    anyhow::ensure!(seen.sent > 0, "the client had no time to send");
    Ok(seen)
}

/// How many are due after that time.
fn number(time: Duration) -> u64 {
    u64::try_from(time.as_micros() * u128::from(RATE) / 1_000_000).unwrap_or(u64::MAX)
}
