use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

/// What a link has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Streams that exist now, both directions, including those whose end is still on its way out.
    pub open_streams: usize,
    /// Streams opened by this end.
    pub opened: u64,
    /// Streams opened by the peer.
    pub accepted: u64,
    /// Streams of the peer that were reset at once because of the cap.
    pub refused: u64,
    /// Streams that were reset because [`Unread`](crate::Unread) was above its limit.
    pub evicted: u64,
    /// Payload bytes of WebSocket messages, text and binary.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// WebSocket messages, text and binary.
    pub messages_in: u64,
    pub messages_out: u64,
    /// Round trip of the last answered ping.
    pub rtt: Option<Duration>,
}

/// The same. The driver alone writes the bytes and the round trip.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) open_streams: AtomicUsize,
    pub(crate) opened: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) messages_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    /// Nanoseconds; 0 before the first pong.
    pub(crate) rtt: AtomicU64,
}

/// Adds without a locked instruction: there is one writer.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn message_in(&self, bytes: usize) {
        add(&self.bytes_in, bytes as u64);
        add(&self.messages_in, 1);
    }

    pub(crate) fn message_out(&self, bytes: usize) {
        add(&self.bytes_out, bytes as u64);
        add(&self.messages_out, 1);
    }

    pub(crate) fn read(&self) -> Stats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            open_streams: self.open_streams.load(Ordering::Relaxed),
            opened: load(&self.opened),
            accepted: load(&self.accepted),
            refused: load(&self.refused),
            evicted: load(&self.evicted),
            bytes_in: load(&self.bytes_in),
            bytes_out: load(&self.bytes_out),
            messages_in: load(&self.messages_in),
            messages_out: load(&self.messages_out),
            rtt: self.rtt(),
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.rtt.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}
