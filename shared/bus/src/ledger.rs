//! What one process's streams hold and have done: the byte budget and the counters.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::stream::{INITIAL_WINDOW, SMALL_WINDOW};

/// A point-in-time reading of [`Bus::stats`](crate::Bus::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Streams not yet dropped.
    pub streams_open: usize,
    /// Bytes received and not yet read.
    pub buffered_bytes: u64,
    /// Bytes that peers may have in flight to us or buffered here, together.
    pub window_bytes: u64,
    /// The most that `window_bytes` may become.
    pub window_limit: u64,
    /// Streams opened from here and accepted by a peer, ever.
    pub opened: u64,
    /// Streams accepted here, ever.
    pub accepted: u64,
    /// Opens from or to here that were refused, timed out or found nobody, ever.
    pub refused: u64,
    /// Streams that ended in a reset, ever.
    pub resets: u64,
    /// Times the client library dropped messages because a subscription was full.
    pub slow_consumer_events: u64,
    /// Times a bus connection was lost.
    pub disconnects: u64,
    /// Frames that could not be read.
    pub bad_frames: u64,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    limit: u64,
    window: AtomicU64,
    pub(crate) buffered: AtomicU64,
    pub(crate) streams: AtomicUsize,
    pub(crate) opened: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) slow: AtomicU64,
    pub(crate) disconnects: AtomicU64,
    pub(crate) bad_frames: AtomicU64,
    /// The most one stream's window may grow to.
    pub(crate) ceiling: u32,
}

impl Ledger {
    pub(crate) fn new(limit: u64, ceiling: u32) -> Self {
        Self {
            limit,
            ceiling: ceiling.max(SMALL_WINDOW),
            window: AtomicU64::new(0),
            buffered: AtomicU64::new(0),
            streams: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            disconnects: AtomicU64::new(0),
            bad_frames: AtomicU64::new(0),
        }
    }

    /// The window of a new stream, at least `needed`, charged; None when the budget has no room.
    ///
    /// While half of the budget is free a stream starts with [`INITIAL_WINDOW`], after that with [`SMALL_WINDOW`]: many
    /// idle streams must fit beside a few busy ones.
    pub(crate) fn open(&self, needed: u32) -> Option<u32> {
        let large = INITIAL_WINDOW.min(self.ceiling).max(needed);
        if self.charge(large, self.limit / 2) {
            return Some(large);
        }
        let small = SMALL_WINDOW.max(needed);
        self.charge(small, self.limit).then_some(small)
    }

    /// Room for a window to become larger. Growth never takes the half that new streams need.
    pub(crate) fn grow(&self, more: u32) -> bool {
        self.charge(more, self.limit / 2)
    }

    fn charge(&self, more: u32, limit: u64) -> bool {
        self.window
            .fetch_update(Relaxed, Relaxed, |used| used.checked_add(more.into()).filter(|sum| *sum <= limit))
            .is_ok()
    }

    pub(crate) fn release(&self, window: u32) {
        self.window.fetch_sub(window.into(), Relaxed);
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            streams_open: self.streams.load(Relaxed),
            buffered_bytes: self.buffered.load(Relaxed),
            window_bytes: self.window.load(Relaxed),
            window_limit: self.limit,
            opened: self.opened.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            resets: self.resets.load(Relaxed),
            slow_consumer_events: self.slow.load(Relaxed),
            disconnects: self.disconnects.load(Relaxed),
            bad_frames: self.bad_frames.load(Relaxed),
        }
    }
}
