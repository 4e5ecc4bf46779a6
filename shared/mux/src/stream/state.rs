//! One stream, as its user, the driver and the limits of the process see it.
//!
//! The lock is held for a few field updates and a copy at a time, never across a wake-up or an await.

use std::{
    collections::VecDeque,
    io::IoSlice,
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::{
    config::{INITIAL_WINDOW, SPLIT},
    frame::{self, Header},
    state::{Shared, lock},
};

/// The peer's FIN has arrived with everything before it.
pub(crate) const FIN_IN: u16 = 1;
/// The peer reset the stream.
pub(crate) const RST_IN: u16 = 2;
/// Our FIN is in the output.
const FIN_OUT: u16 = 4;
/// The user of the stream has finished writing, and has dropped it.
pub(crate) const SHUT: u16 = 8;
const DROPPED: u16 = 16;
/// The link has ended under it.
const CUT: u16 = 32;
/// The reader has seen the peer's end.
const READ_OUT: u16 = 64;
/// It was taken from its user, who left too much unread.
pub(crate) const EVICTED: u16 = 128;
/// The next frame tells the peer that the stream is there, or that it was taken.
const SYN_DUE: u16 = 256;
const ACK_DUE: u16 = 512;
/// The peer has not said that it has taken it.
const UNACKED: u16 = 1024;

/// Nobody takes what is written any more.
const BROKEN: u16 = RST_IN | CUT | EVICTED;

/// Who has read this much may wait twice as long as who has read nothing, and so on up to [`MOST_TRUST`] times as long.
const TRUST: u64 = 64 * 1024;
const MOST_TRUST: u64 = 64;

/// Received pieces that have to wait are put together up to this size.
const TOGETHER: usize = 64 * 1024;

/// The part of a window that is granted again at once. Less than it may be left of what is under way when the last grant
/// goes out, and that much is not carried in each round trip: with a half, half of the window.
const PART: u32 = 4;

/// A window is widened when a part of it was read within a round trip, which is taken for [`UNKNOWN`] as long as it is not
/// known and for at least [`BRISK`]: the reader keeps up, and the window is what limits. It is narrowed when that took
/// longer than [`SLOW`].
const UNKNOWN: Duration = Duration::from_millis(100);
const BRISK: Duration = Duration::from_millis(1);
const SLOW: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) id: u32,
    pub(crate) shared: Arc<Shared>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// How far the stream has come to its end.
    flags: u16,
    /// It is counted in `Shared::over`.
    over: bool,

    queue: VecDeque<Bytes>,
    /// What came behind `queue`, while nobody waited for it.
    tail: BytesMut,
    unread: usize,
    read: u64,
    /// When the user last read, or could have.
    idle_since: Instant,
    /// What the peer may still send, of how much, and what was read and not yet granted again.
    granted: u32,
    window: u32,
    owed: u32,
    last_grant: Instant,
    /// Who waits for bytes, or, unless `reads`, only for a reset.
    reader: Option<Waker>,
    reads: bool,

    /// What may be sent.
    credit: u32,
    /// The body of a frame that waits for room in the output.
    kept: BytesMut,
    writer: Option<Waker>,
}

impl StreamState {
    /// One that this end opens. The peer learns of it with the first frame.
    pub(crate) fn opened(id: u32, shared: Arc<Shared>) -> Arc<Self> {
        Self::new(id, shared, SYN_DUE | UNACKED, INITIAL_WINDOW)
    }

    /// One that the peer has opened, and on which it takes `credit`.
    pub(crate) fn accepted(id: u32, shared: Arc<Shared>, credit: u32) -> Arc<Self> {
        Self::new(id, shared, ACK_DUE, credit)
    }

    fn new(id: u32, shared: Arc<Shared>, flags: u16, credit: u32) -> Arc<Self> {
        let now = Instant::now();
        let inner = Inner {
            flags,
            over: false,
            queue: VecDeque::new(),
            tail: BytesMut::new(),
            unread: 0,
            read: 0,
            idle_since: now,
            granted: INITIAL_WINDOW,
            window: INITIAL_WINDOW,
            owed: 0,
            last_grant: now,
            reader: None,
            reads: false,
            credit,
            kept: BytesMut::new(),
            writer: None,
        };
        Arc::new(Self { id, shared, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub(crate) fn has(&self, flags: u16) -> bool {
        self.lock().has(flags)
    }

    // What the peer says.

    /// A frame with so many bytes begins. An error with the rule that it breaks.
    pub(crate) fn expect(&self, length: u32) -> Result<(), &'static str> {
        let mut inner = self.lock();
        if inner.has(FIN_IN) && length > 0 {
            return Err("stream data behind its end");
        }
        inner.granted = inner.granted.checked_sub(length).ok_or("more stream data than the window has room for")?;
        Ok(())
    }

    pub(crate) fn receive(&self, bytes: Bytes) {
        let mut inner = self.lock();
        if inner.flags & (DROPPED | EVICTED | RST_IN) != 0 {
            return;
        }
        if inner.unread == 0 {
            inner.idle_since = Instant::now();
        }
        inner.unread += bytes.len();
        self.shared.unread.add(bytes.len());
        inner.push(bytes);
        let reader = inner.wakes_reader();
        drop(inner);
        wake(reader);
    }

    /// The peer says no more.
    pub(crate) fn finish(&self) {
        let mut inner = self.lock();
        inner.flags |= FIN_IN;
        inner.count_if_over(&self.shared);
        let reader = inner.wakes_reader();
        drop(inner);
        wake(reader);
    }

    /// The peer has given it up.
    pub(crate) fn reset(&self) {
        self.acknowledged();
        self.fail(RST_IN);
    }

    /// The link has ended.
    pub(crate) fn cut(&self) {
        self.fail(CUT);
        if self.has(DROPPED) {
            // Its last frame was still in the line.
            self.shared.forget(self.id, false);
        }
    }

    fn fail(&self, flag: u16) {
        let mut inner = self.lock();
        inner.flags |= flag;
        inner.count_if_over(&self.shared);
        inner.kept = BytesMut::new();
        inner.reads = false;
        let waiting = [inner.reader.take(), inner.writer.take()];
        drop(inner);
        waiting.into_iter().for_each(wake);
    }

    /// The peer takes `credit` more. False: more than it can mean.
    pub(crate) fn allow(&self, credit: u32) -> bool {
        let mut inner = self.lock();
        let Some(sum) = inner.credit.checked_add(credit) else { return false };
        inner.credit = sum;
        let writer = if inner.kept.is_empty() { inner.writer.take() } else { None };
        drop(inner);
        wake(writer);
        true
    }

    /// The peer has taken the stream.
    pub(crate) fn acknowledged(&self) {
        let mut inner = self.lock();
        let first = inner.has(UNACKED);
        inner.flags &= !UNACKED;
        drop(inner);
        if first {
            self.shared.backlog.add_permits(1);
        }
    }

    // What the driver asks.

    /// Its turn to put the frame that waits into the output.
    pub(crate) fn take_turn(&self) {
        let mut inner = self.lock();
        if inner.kept.is_empty() {
            // Reset meanwhile, or dropped with nothing to be said for it.
            let dropped = inner.has(DROPPED);
            drop(inner);
            if dropped {
                self.shared.forget(self.id, false);
            }
            return;
        }
        let body = std::mem::take(&mut inner.kept);
        let flags = inner.due();
        let mut output = lock(&self.shared.output);
        output.data(Header::data(flags, self.id, length(body.len())), [&body[..]]);
        if inner.has(SHUT) {
            // In a frame of its own: hashicorp/yamux looks at the flags of a frame before it has its body.
            output.signal(Header::data(frame::FIN, self.id, 0));
            inner.flags |= FIN_OUT;
            inner.count_if_over(&self.shared);
        }
        let dropped = inner.has(DROPPED);
        if dropped && !inner.has(FIN_IN) {
            output.signal(Header::data(frame::RST, self.id, 0));
        }
        drop(output);
        let writer = inner.writer.take();
        let over = dropped && inner.uncount();
        drop(inner);
        if dropped {
            self.shared.forget(self.id, over);
        }
        wake(writer);
    }

    // What the user does.

    /// Tells the peer that the stream was taken; hashicorp/yamux closes its session when that takes over 75 s, and
    /// both implementations stop opening after 256 that were not.
    pub(crate) fn acknowledge(&self) {
        let mut inner = self.lock();
        if !inner.has(ACK_DUE) || inner.flags & BROKEN != 0 {
            return;
        }
        let flags = inner.due();
        lock(&self.shared.output).acknowledge(Header::window(flags, self.id, 0));
        drop(inner);
        self.shared.said();
    }

    /// The next received bytes; none when no more will come.
    pub(crate) fn poll_piece(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut inner = self.lock();
        let Some(piece) = inner.pop() else {
            if inner.has(FIN_IN) || inner.flags & BROKEN != 0 {
                return Poll::Ready(None);
            }
            register(&mut inner.reader, cx);
            inner.reads = true;
            return Poll::Pending;
        };
        let now = Instant::now();
        self.shared.unread.sub(piece.len());
        inner.unread -= piece.len();
        inner.read += piece.len() as u64;
        inner.idle_since = now;
        inner.owed = inner.owed.saturating_add(length(piece.len()));
        let credit = inner.grant(now, &self.shared);
        if credit == 0 {
            return Poll::Ready(Some(piece));
        }
        let flags = inner.due();
        lock(&self.shared.output).signal(Header::window(flags, self.id, credit));
        drop(inner);
        self.shared.said();
        Poll::Ready(Some(piece))
    }

    pub(crate) fn read_out(&self) {
        self.lock().flags |= READ_OUT;
    }

    /// Resolves with [`EVICTED`]; with [`RST_IN`], or with [`CUT`] unless both directions had ended before; but not while
    /// all that the peer had to say is here to be read: what came after it takes nothing away.
    pub(crate) fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        let lost = inner.has(RST_IN) || inner.has(CUT) && !inner.has(FIN_IN | SHUT);
        if inner.has(EVICTED) || lost && (!inner.has(FIN_IN) || inner.has(READ_OUT)) {
            return Poll::Ready(());
        }
        register(&mut inner.reader, cx);
        inner.reads = false;
        Poll::Pending
    }

    /// Writes as much of `bufs` as fits a frame. None: the stream takes nothing any more.
    pub(crate) fn poll_write(self: &Arc<Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<Option<usize>> {
        let mut inner = self.lock();
        if inner.flags & (BROKEN | SHUT) != 0 {
            return Poll::Ready(None);
        }
        if inner.credit == 0 || !inner.kept.is_empty() {
            register(&mut inner.writer, cx);
            return Poll::Pending;
        }
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let take = total.min(SPLIT).min(usize::try_from(inner.credit).unwrap_or(usize::MAX));
        inner.credit -= length(take);
        let mut left = take;
        let parts = bufs.iter().map(|buf| {
            let part = buf.get(..left).unwrap_or(buf);
            left -= part.len();
            part
        });
        let mut output = lock(&self.shared.output);
        if output.is_open() {
            let flags = inner.due();
            output.data(Header::data(flags, self.id, length(take)), parts);
        } else {
            inner.kept.reserve(take);
            parts.for_each(|part| inner.kept.extend_from_slice(part));
            output.wait(Arc::clone(self));
        }
        drop(output);
        drop(inner);
        self.shared.said();
        Poll::Ready(Some(take))
    }

    /// Ends our direction, behind all that was written. False: the stream takes nothing any more.
    pub(crate) fn shut(&self) -> bool {
        let mut inner = self.lock();
        if inner.has(SHUT) {
            return true;
        }
        if inner.flags & BROKEN != 0 {
            return false;
        }
        inner.flags |= SHUT;
        if inner.kept.is_empty() {
            inner.flags |= FIN_OUT;
            inner.count_if_over(&self.shared);
            let flags = inner.due() | frame::FIN;
            lock(&self.shared.output).signal(Header::data(flags, self.id, 0));
            drop(inner);
            self.shared.said();
        }
        true
    }

    /// The user drops it: the peer is told, unless both directions have ended.
    pub(crate) fn close(&self) {
        self.abandon(DROPPED);
    }

    /// Takes the stream from its user, and frees what it holds. False: it is gone already.
    pub(crate) fn evict(&self) -> bool {
        self.abandon(EVICTED)
    }

    fn abandon(&self, how: u16) -> bool {
        let mut inner = self.lock();
        let first = inner.flags & (DROPPED | EVICTED) == 0;
        if !first && how == EVICTED {
            return false;
        }
        let unknown = inner.flags & (SYN_DUE | BROKEN) != 0;
        // What was written before the end still goes out; `take_turn` sees it off.
        let later = how == DROPPED && inner.has(SHUT) && !inner.has(FIN_OUT);
        let silent = unknown || later || inner.has(FIN_IN | FIN_OUT);
        let owed = inner.has(UNACKED);
        inner.flags = inner.flags & !UNACKED | how;
        if !inner.has(SHUT) || how == EVICTED {
            inner.kept = BytesMut::new();
        }
        inner.queue = VecDeque::new();
        inner.tail = BytesMut::new();
        self.shared.unread.sub(std::mem::take(&mut inner.unread));
        self.shared.narrow(inner.window - INITIAL_WINDOW);
        inner.window = INITIAL_WINDOW;
        if first && !silent {
            lock(&self.shared.output).signal(Header::data(inner.due() | frame::RST, self.id, 0));
        }
        inner.reads = false;
        let waiting = [inner.reader.take(), inner.writer.take()];
        let over = first && !later && inner.uncount();
        drop(inner);
        if owed {
            self.shared.backlog.add_permits(1);
        }
        if first && !later {
            self.shared.forget(self.id, over);
        }
        self.shared.said();
        waiting.into_iter().for_each(wake);
        first
    }

    /// How much it is to blame for what is left unread. None when it has nothing.
    pub(crate) fn burden(&self, now: Instant) -> Option<u128> {
        let inner = self.lock();
        if inner.unread == 0 {
            return None;
        }
        let idle = now.saturating_duration_since(inner.idle_since);
        let trust = (1 + inner.read / TRUST).min(MOST_TRUST);
        Some(inner.unread as u128 * idle.as_micros().max(1) / u128::from(trust))
    }
}

impl Inner {
    fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// Once it has ended on the wire, the peer has room for another.
    fn count_if_over(&mut self, shared: &Shared) {
        let over = self.has(RST_IN) || self.has(FIN_IN | FIN_OUT);
        if over && self.flags & (DROPPED | EVICTED) == 0 && !std::mem::replace(&mut self.over, true) {
            shared.over.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// True when it was counted.
    fn uncount(&mut self) -> bool {
        std::mem::take(&mut self.over)
    }

    /// The flags that the next frame has to carry.
    fn due(&mut self) -> u16 {
        let syn = if self.has(SYN_DUE) { frame::SYN } else { 0 };
        let ack = if self.has(ACK_DUE) { frame::ACK } else { 0 };
        self.flags &= !(SYN_DUE | ACK_DUE);
        syn | ack
    }

    fn push(&mut self, bytes: Bytes) {
        // Somebody waits for it: it is taken as it is.
        if self.reads {
            self.queue.push_back(bytes);
            return;
        }
        if !self.tail.is_empty() && self.tail.len() + bytes.len() > TOGETHER {
            self.queue.push_back(std::mem::take(&mut self.tail).freeze());
        }
        self.tail.extend_from_slice(&bytes);
    }

    fn pop(&mut self) -> Option<Bytes> {
        if let Some(front) = self.queue.pop_front() {
            return Some(front);
        }
        if self.tail.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut self.tail).freeze())
    }

    fn wakes_reader(&mut self) -> Option<Waker> {
        if std::mem::take(&mut self.reads) { self.reader.take() } else { None }
    }

    /// Once a part of the window is owed: what to grant the peer, with the window moved towards what the reader can take.
    fn grant(&mut self, now: Instant, shared: &Shared) -> u32 {
        if self.flags & (FIN_IN | BROKEN) != 0 || self.owed < self.window / PART {
            return 0;
        }
        let took = now.saturating_duration_since(self.last_grant);
        self.last_grant = now;
        let mut credit = std::mem::take(&mut self.owed);
        let brisk = shared.counters.rtt().unwrap_or(UNKNOWN).max(BRISK);
        if took < brisk {
            if shared.widen(self.window) {
                credit += self.window;
                self.window *= 2;
            }
        } else if took > SLOW && self.window > INITIAL_WINDOW {
            let less = (self.window - INITIAL_WINDOW).min(credit);
            shared.narrow(less);
            self.window -= less;
            credit -= less;
        }
        self.granted += credit;
        credit
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
