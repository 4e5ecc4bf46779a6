//! Notices instances that are gone or frozen: pings those that streams are open with, and ends the streams of one that
//! the server does not know (at the next ping) or that says nothing (within 2 s).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Io, peer};
use crate::frame;

const TICK: Duration = Duration::from_millis(250);
/// A ping every so many ticks.
const PING_TICKS: u32 = 2;
/// Silence that ends the streams; with the tick before and the tick after it stays under 2 s.
const SILENCE: Duration = Duration::from_millis(1500);
/// When our own tick comes this late it was us who were away, and nobody can be blamed.
const LATE: Duration = Duration::from_secs(1);

pub(super) async fn watch(io: Arc<Io>) {
    // When each was last heard, by our ticks.
    let mut last = std::collections::HashMap::<Box<str>, Instant>::new();
    let mut ticks = 0_u32;
    let mut previous = Instant::now();
    loop {
        if io.lock_peers().is_empty() {
            last.clear();
            io.watch.notified().await;
            previous = Instant::now();
        }
        tokio::time::sleep(TICK).await;
        let now = Instant::now();
        let late = now.saturating_duration_since(previous) > TICK + LATE;
        previous = now;
        if !io.is_up() {
            continue;
        }
        ticks = ticks.wrapping_add(1);
        // Two references beside a stream's routes: the table's and this one's.
        let (used, unused): (Vec<_>, Vec<_>) =
            io.lock_peers().values().cloned().partition(|peer| Arc::strong_count(peer) > 2);
        for peer in used {
            let heard = peer.take_heard() || late;
            let at = last.entry(peer.address.clone()).or_insert(now);
            if heard {
                *at = now;
            } else if now.saturating_duration_since(*at) >= SILENCE {
                last.remove(&peer.address);
                io.peer_gone(&peer.address, "the peer instance does not answer");
                continue;
            }
            if ticks.is_multiple_of(PING_TICKS)
                && let Some(client) = io.client()
            {
                let reply = peer::ping_reply(&io.address, &peer.address);
                let ping = frame::ping(io.epoch(), &io.address);
                // A full client means frames are on their way, and those are as good as a ping.
                let _ = futures::FutureExt::now_or_never(client.publish_with_reply(peer.subject.clone(), reply, ping));
            }
        }
        for peer in unused {
            last.remove(&peer.address);
            let mut peers = io.lock_peers();
            // Unless a stream was opened meanwhile.
            if Arc::strong_count(&peer) == 2 {
                peers.remove(&peer.address);
            }
        }
    }
}
