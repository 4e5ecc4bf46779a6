//! What a stream's user, the transport and the limits of the process have to know of it together.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use futures::{Stream as _, io::AsyncWrite as _, task::AtomicWaker};
use tokio::time::Instant;

use crate::{
    config::{FRAME_COST, SPLIT, UNSENT},
    state::{Shared, lock},
};

/// The peer's FIN has been delivered to yamux with everything before it.
pub(crate) const FIN_IN: u16 = 1;
/// The peer reset the stream.
pub(crate) const RST_IN: u16 = 2;
/// Our FIN or RST is in the outgoing bytes.
pub(crate) const FIN_OUT: u16 = 4;
pub(crate) const RST_OUT: u16 = 8;
/// The user of the stream has finished writing, and has dropped it.
pub(crate) const SHUT: u16 = 16;
pub(crate) const DROPPED: u16 = 32;
/// The link has ended under it.
pub(crate) const CUT: u16 = 64;
/// The reader has seen the peer's end.
pub(crate) const READ_OUT: u16 = 128;
/// It was taken from its user, who left too much unread.
pub(crate) const EVICTED: u16 = 256;

/// Who has read this much may wait twice as long as who has read nothing, and so on up to [`MOST_TRUST`] times as long.
const TRUST: u64 = 64 * 1024;
const MOST_TRUST: u64 = 64;

/// Nobody takes what is written any more.
const BROKEN: u16 = RST_IN | CUT | EVICTED;

#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) id: u32,
    pub(crate) shared: Arc<Shared>,
    /// None once it is dropped.
    pub(crate) inner: Mutex<Option<yamux::Stream>>,
    /// How far it has come to its end.
    flags: AtomicU16,
    /// Whoever waits for the peer to give the stream up. yamux wakes only those that read or write.
    abandoned: AtomicWaker,
    /// What was received and not read, what was read, and when the user last read, or could have.
    unread: AtomicUsize,
    read: AtomicU64,
    idle_since: Mutex<Instant>,
    /// What was written and is not yet in the transport, and who waits for that.
    unsent: AtomicUsize,
    writer: AtomicWaker,
}

impl StreamState {
    pub(crate) fn new(id: u32, shared: Arc<Shared>) -> Self {
        Self {
            id,
            shared,
            inner: Mutex::default(),
            flags: AtomicU16::new(0),
            abandoned: AtomicWaker::new(),
            unread: AtomicUsize::new(0),
            read: AtomicU64::new(0),
            idle_since: Mutex::new(Instant::now()),
            unsent: AtomicUsize::new(0),
            writer: AtomicWaker::new(),
        }
    }

    pub(crate) fn set(&self, flag: u16) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        if flag & BROKEN != 0 {
            self.abandoned.wake();
            self.writer.wake();
        }
    }

    pub(crate) fn has(&self, flags: u16) -> bool {
        self.flags.load(Ordering::Acquire) & flags == flags
    }

    /// Resolves with [`EVICTED`]; with [`RST_IN`], or with [`CUT`] unless both directions had ended before; but not while
    /// all that the peer had to say is here to be read: what came after it takes nothing away.
    pub(crate) fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()> {
        let abandoned = || {
            let lost = self.has(RST_IN) || self.has(CUT) && !self.has(FIN_IN | SHUT);
            self.has(EVICTED) || lost && (!self.has(FIN_IN) || self.has(READ_OUT))
        };
        if abandoned() {
            return Poll::Ready(());
        }
        self.abandoned.register(cx.waker());
        // It may have come just before the waker was there.
        if abandoned() { Poll::Ready(()) } else { Poll::Pending }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.has(RST_IN) || self.has(DROPPED) || self.has(FIN_IN | FIN_OUT)
    }

    /// A piece of this size is about to wait for the reader. Nothing of it is read before.
    pub(crate) fn received(&self, len: usize) {
        if len == 0 {
            return;
        }
        if self.unread.load(Ordering::Acquire) == 0 {
            *lock(&self.idle_since) = Instant::now();
        }
        // First for all, so that their sum never falls short of what is taken from it.
        self.shared.unread.add(len + FRAME_COST);
        self.unread.fetch_add(len + FRAME_COST, Ordering::AcqRel);
    }

    /// The next piece that was received; none when no more will come.
    pub(crate) fn poll_piece(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        // Held to the end, so that an eviction does not count the piece too.
        let mut inner = lock(&self.inner);
        let Some(stream) = &mut *inner else { return Poll::Ready(None) };
        let Some(Ok(packet)) = ready!(Pin::new(stream).poll_next(cx)) else { return Poll::Ready(None) };
        let cost = packet.as_ref().len() + FRAME_COST;
        self.read.fetch_add(cost as u64, Ordering::Relaxed);
        self.unread.fetch_sub(cost, Ordering::AcqRel);
        self.shared.unread.sub(cost);
        *lock(&self.idle_since) = Instant::now();
        Poll::Ready(Some(Bytes::from_owner(packet)))
    }

    /// Writes a part of `buf`. While the link is slow each stream may have one frame waiting for it, and more only as long
    /// as all together have less than [`UNSENT`].
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx));
        let mut inner = lock(&self.inner);
        let Some(stream) = &mut *inner else { return Poll::Ready(Err(io::ErrorKind::WriteZero.into())) };
        // Before the driver can count it as sent.
        let most = buf.len().min(SPLIT);
        self.unsent.fetch_add(most, Ordering::AcqRel);
        self.shared.unsent.fetch_add(most, Ordering::Relaxed);
        let outcome = Pin::new(stream).poll_write(cx, buf.get(..most).unwrap_or_default());
        let written = if let Poll::Ready(Ok(n)) = outcome { n } else { 0 };
        self.unsent.fetch_sub(most - written, Ordering::AcqRel);
        self.shared.unsent.fetch_sub(most - written, Ordering::Relaxed);
        outcome
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let is_full = || {
            self.flags.load(Ordering::Acquire) & BROKEN == 0
                && self.unsent.load(Ordering::Acquire) > 0
                && self.shared.unsent.load(Ordering::Relaxed) >= UNSENT
        };
        if !is_full() {
            return Poll::Ready(());
        }
        self.writer.register(cx.waker());
        // It may have left just before the waker was there.
        if is_full() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// That much of it is in the transport.
    pub(crate) fn sent(&self, len: usize) {
        if len > 0 {
            self.shared.unsent.fetch_sub(len, Ordering::Relaxed);
            self.unsent.fetch_sub(len, Ordering::AcqRel);
            self.writer.wake();
        }
    }

    /// What it costs to let this wait: bytes times the time that they have, and the less the more was read before, because a
    /// good reader may merely be late. None when there are none that [`evict`](Self::evict) frees.
    pub(crate) fn burden(&self, now: Instant) -> Option<u128> {
        let unread = self.unread.load(Ordering::Acquire);
        if unread == 0 || self.has(DROPPED) {
            return None;
        }
        let idle = now.saturating_duration_since(*lock(&self.idle_since));
        let trust = (1 + self.read.load(Ordering::Relaxed) / TRUST).min(MOST_TRUST);
        Some(unread as u128 * idle.as_micros().max(1) / u128::from(trust))
    }

    /// Takes the stream from its user, and frees what it holds. False: the user has just dropped it.
    pub(crate) fn evict(&self) -> bool {
        self.set(EVICTED);
        self.close()
    }

    /// Drops what is left of the stream; the driver tells the peer. False when that was done before.
    pub(crate) fn close(&self) -> bool {
        let mut inner = lock(&self.inner);
        let Some(mut stream) = inner.take() else { return false };
        self.set(DROPPED);
        if self.unread.load(Ordering::Acquire) > 0 {
            // yamux frees this only when it can tell the peer, which may not read.
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(Some(Ok(_))) = Pin::new(&mut stream).poll_next(&mut cx) {}
            self.forget_unread();
        }
        lock(&self.shared.dropped).push(self.id);
        // Wakes the driver.
        drop(stream);
        true
    }

    /// Nothing of it is held any more.
    pub(crate) fn forget(&self) {
        self.forget_unread();
        self.shared.unsent.fetch_sub(self.unsent.swap(0, Ordering::AcqRel), Ordering::Relaxed);
    }

    fn forget_unread(&self) {
        self.shared.unread.sub(self.unread.swap(0, Ordering::AcqRel));
    }
}

impl Drop for StreamState {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A stream that has `unread` bytes since now, and a reader of `read` before.
    fn stream(read: u64, unread: usize) -> StreamState {
        let stream = StreamState::new(1, Arc::default());
        stream.read.store(read, Ordering::Relaxed);
        stream.received(unread);
        stream
    }

    #[test]
    fn the_longest_and_most_neglected_stream_is_the_worst() {
        let burden =
            |stream: &StreamState, millis| stream.burden(Instant::now() + Duration::from_millis(millis)).unwrap();
        let window = 256 * 1024;
        assert!(burden(&stream(0, window), 20) > burden(&stream(0, window), 10));
        assert!(burden(&stream(0, window), 10) > burden(&stream(0, 1024), 10));
        // Late, and still better than one that was never read; but not for ever.
        assert!(burden(&stream(1 << 30, window), 200) < burden(&stream(0, window), 10));
        assert!(burden(&stream(1 << 30, window), 60_000) > burden(&stream(0, window), 500));
        assert_eq!(stream(0, 0).burden(Instant::now()), None);
        let dropped = stream(0, window);
        dropped.set(DROPPED);
        assert_eq!(dropped.burden(Instant::now()), None);
    }
}
