//! One end of a stream: what was received and may be sent. Frames come in from the bus, bytes go out to the reader.
//!
//! The lock is held for a few field updates at a time, never across a wake-up, another stream's lock or an await.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::{COST, MIN_SEND, SMALL_WINDOW, TINY};
use crate::{OpenError, ledger::Ledger, nats::Route as NatsRoute};

/// Where this stream's frames go.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Nats(NatsRoute),
    /// The other end, in this process.
    Local(Arc<Core>),
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: u64,
    pub(crate) ledger: Arc<Ledger>,
    /// Set with the reset: lets the write side look without the lock.
    dead: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// With what each cost the peer.
    queue: VecDeque<Piece>,
    /// Small pieces that had to wait, together, so that none of them pins the large buffer it came in.
    tail: BytesMut,
    tail_cost: u32,
    /// What the peer may still send.
    granted: u32,
    /// What was read and not yet returned to the peer.
    owed: u32,
    window: u32,
    last_grant: Instant,
    next_in: u32,
    fin_in: bool,
    /// The reader has seen the end.
    fin_read: bool,

    credit: u32,
    next_out: u32,
    fin_out: bool,

    route: Option<Route>,
    opening: Option<oneshot::Sender<Result<(), OpenError>>>,
    reset: Option<Arc<str>>,
    /// Who waits for bytes, or, unless `reads`, only for a reset.
    reader: Option<Waker>,
    reads: bool,
    writer: Option<Waker>,
}

/// Received bytes, and a number of bytes of credit.
type Piece = (Bytes, u32);

/// What the write side may do now.
pub(crate) struct Permit {
    /// Bytes of the chunk that may go.
    pub(crate) take: usize,
    pub(crate) sequence: u32,
    /// Credit to return with it.
    pub(crate) credit: u32,
    pub(crate) route: Route,
}

/// A window is widened when half of it was read faster than this: the reader keeps up and the window is what limits.
const FAST: Duration = Duration::from_millis(50);
/// And narrowed again when that took longer than this.
const SLOW: Duration = Duration::from_secs(2);

impl Core {
    /// An end whose first `used` of `window` (already charged to the ledger) is spent.
    pub(crate) fn new(id: u64, ledger: Arc<Ledger>, window: u32, used: u32) -> Self {
        ledger.streams.fetch_add(1, Relaxed);
        let state = State {
            queue: VecDeque::new(),
            tail: BytesMut::new(),
            tail_cost: 0,
            granted: window.saturating_sub(used),
            owed: 0,
            window,
            last_grant: Instant::now(),
            next_in: 0,
            fin_in: false,
            fin_read: false,
            credit: 0,
            next_out: 0,
            fin_out: false,
            route: None,
            opening: None,
            reset: None,
            reader: None,
            reads: false,
            writer: None,
        };
        Self { id, ledger, dead: AtomicBool::new(false), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the peer may send before it hears from us again.
    pub(crate) fn granted(&self) -> u32 {
        self.lock().granted
    }

    pub(crate) fn route(&self) -> Option<Route> {
        self.lock().route.clone()
    }

    /// Breaks the circle of two local ends that hold each other.
    pub(crate) fn take_route(&self) -> Option<Route> {
        self.lock().route.take()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    pub(crate) fn reset_reason(&self) -> Option<Arc<str>> {
        self.lock().reset.clone()
    }

    /// Both directions have ended, in whatever way: no frame can matter any more.
    pub(crate) fn is_finished(&self) -> bool {
        let state = self.lock();
        state.reset.is_some() || (state.fin_in && state.fin_out)
    }

    /// Registers whom to tell how the open ended.
    pub(crate) fn opening(&self, sender: oneshot::Sender<Result<(), OpenError>>) {
        self.lock().opening = Some(sender);
    }

    /// The open was accepted by `route`, which may be sent `credit`. False when nobody waits for it.
    pub(crate) fn accepted(&self, route: Route, credit: u32) -> bool {
        let mut state = self.lock();
        let Some(opening) = state.opening.take() else { return false };
        state.route = Some(route);
        // Data, and credit with it, may have come first.
        state.credit = state.credit.saturating_add(credit);
        drop(state);
        opening.send(Ok(())).is_ok()
    }

    /// The open failed. Nothing happens when it has ended already.
    pub(crate) fn refused(&self, error: OpenError) {
        let opening = self.lock().opening.take();
        if let Some(opening) = opening {
            // The caller may have gone; then nobody is to be told.
            let _ = opening.send(Err(error));
        }
    }

    /// The accepting end, complete from the start.
    pub(crate) fn connected(&self, route: Route, credit: u32, first: Bytes) {
        let mut state = self.lock();
        state.route = Some(route);
        state.credit = credit;
        if !first.is_empty() {
            self.ledger.buffered.fetch_add(length(&first), Relaxed);
            let cost = cost(first.len());
            state.queue.push_back((first, cost));
        }
    }

    /// Bytes from the peer. Err with the reason to reset for when it broke the rules or the bus lost something.
    pub(crate) fn on_data(&self, sequence: u32, credit: u32, fin: bool, bytes: Bytes) -> Result<(), &'static str> {
        let mut state = self.lock();
        if state.reset.is_some() {
            return Ok(());
        }
        if let Some(Route::Nats(route)) = &state.route {
            route.peer.heard();
        }
        if sequence != state.next_in {
            return Err("the bus lost a message");
        }
        if state.fin_in {
            return Err("data after the end");
        }
        state.next_in = state.next_in.wrapping_add(1);
        let mut writer = None;
        if credit > 0 {
            state.credit = state.credit.saturating_add(credit);
            writer = state.writer.take();
        }
        if !bytes.is_empty() {
            let cost = cost(bytes.len());
            let Some(left) = state.granted.checked_sub(cost) else { return Err("the peer overran its credit") };
            state.granted = left;
            self.ledger.buffered.fetch_add(length(&bytes), Relaxed);
            state.push(bytes, cost);
        }
        state.fin_in |= fin;
        let reader = if std::mem::take(&mut state.reads) { state.reader.take() } else { None };
        drop(state);
        wake(reader);
        wake(writer);
        Ok(())
    }

    /// The peer has room for `credit` more.
    pub(crate) fn on_credit(&self, credit: u32) {
        let mut state = self.lock();
        state.credit = state.credit.saturating_add(credit);
        let writer = state.writer.take();
        drop(state);
        wake(writer);
    }

    /// Ends both directions. What the peer had sent completely (up to its fin) stays readable; the rest is dropped.
    /// False when it was ended already.
    pub(crate) fn fail(&self, reason: &str) -> bool {
        let mut state = self.lock();
        if state.reset.is_some() {
            return false;
        }
        // A stream that never was, or that is complete, is not reset.
        let broken = state.route.is_some() && !(state.fin_in && state.fin_out);
        state.reset = Some(Arc::from(reason));
        self.dead.store(true, Relaxed);
        if !state.fin_in {
            self.discard(&mut state);
        }
        let (reader, writer, opening) = (state.reader.take(), state.writer.take(), state.opening.take());
        drop(state);
        if broken {
            self.ledger.resets.fetch_add(1, Relaxed);
        }
        wake(reader);
        wake(writer);
        if let Some(opening) = opening {
            let _ = opening.send(Err(OpenError::Lost(reason.to_owned())));
        }
        true
    }

    /// The reader is gone: give back what it did not read.
    pub(crate) fn discard_unread(&self) {
        self.discard(&mut self.lock());
    }

    fn discard(&self, state: &mut State) {
        let queued = state.queue.iter().map(|(bytes, _)| length(bytes)).sum::<u64>();
        self.ledger.buffered.fetch_sub(queued + length(&state.tail), Relaxed);
        state.queue = VecDeque::new();
        state.tail = BytesMut::new();
        state.tail_cost = 0;
    }

    /// The next bytes, and the credit that is now to be returned to the peer (0 for none). None at the end.
    pub(crate) fn poll_chunk(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, Arc<str>>> {
        let mut state = self.lock();
        if let Some((bytes, cost)) = state.pop() {
            self.ledger.buffered.fetch_sub(length(&bytes), Relaxed);
            state.owed = state.owed.saturating_add(cost);
            let half = state.window / 2;
            let credit = state.grant(half, &self.ledger);
            return Poll::Ready(Ok(Some((bytes, credit))));
        }
        if state.fin_in {
            state.fin_read = true;
            return Poll::Ready(Ok(None));
        }
        if let Some(reason) = &state.reset {
            return Poll::Ready(Err(Arc::clone(reason)));
        }
        register(&mut state.reader, cx);
        state.reads = true;
        Poll::Pending
    }

    /// Why the stream was reset, once it is. Takes the reader's place: nobody is woken for bytes any more.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<Arc<str>> {
        let mut state = self.lock();
        // All that the peer had to say is here: what came after it takes nothing away.
        let whole = state.fin_in && !state.fin_read;
        if let Some(reason) = state.reset.as_ref().filter(|_| !whole) {
            return Poll::Ready(Arc::clone(reason));
        }
        register(&mut state.reader, cx);
        state.reads = false;
        Poll::Pending
    }

    /// Whether `wanted` bytes, or some of them, may be sent now; with `fin` an empty chunk may always go. The credit
    /// and the sequence number are taken, so the caller must send. `ready` is asked once it is known that there is
    /// something to send, and must register the waker when it is not.
    pub(crate) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        wanted: usize,
        fin: bool,
        ready: impl FnOnce(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Result<Permit, Arc<str>>> {
        let mut state = self.lock();
        if let Some(reason) = &state.reset {
            return Poll::Ready(Err(Arc::clone(reason)));
        }
        // Small pieces would cost the peer more than they carry; whoever waits for this much always gets it, because
        // the peer returns credit from half of a window, and the smallest half is more.
        let least = cost(wanted).min(MIN_SEND);
        let Some(route) = state.route.clone().filter(|_| wanted == 0 || state.credit >= least) else {
            register(&mut state.writer, cx);
            return Poll::Pending;
        };
        if ready(cx).is_pending() {
            // A reset must reach a writer that waits for the bus, too.
            register(&mut state.writer, cx);
            return Poll::Pending;
        }
        let room = usize::try_from(state.credit.saturating_sub(COST)).unwrap_or(usize::MAX);
        let take = wanted.min(room);
        if take > 0 {
            state.credit = state.credit.saturating_sub(cost(take));
        }
        let sequence = state.next_out;
        state.next_out = sequence.wrapping_add(1);
        let quarter = state.window / 4;
        let credit = state.grant(quarter, &self.ledger);
        state.fin_out |= fin && take == wanted;
        Poll::Ready(Ok(Permit { take, sequence, credit, route }))
    }

    pub(crate) fn fin_sent(&self) -> bool {
        self.lock().fin_out
    }
}

impl State {
    fn push(&mut self, bytes: Bytes, cost: u32) {
        // A reader that waits takes the bytes at once; otherwise a small piece would hold its whole network buffer.
        let waits = !self.queue.is_empty() || !self.tail.is_empty() || !self.reads;
        if waits && bytes.len() < TINY {
            self.tail.extend_from_slice(&bytes);
            self.tail_cost = self.tail_cost.saturating_add(cost);
            return;
        }
        if !self.tail.is_empty() {
            let tail = (std::mem::take(&mut self.tail).freeze(), std::mem::take(&mut self.tail_cost));
            self.queue.push_back(tail);
        }
        self.queue.push_back((bytes, cost));
    }

    fn pop(&mut self) -> Option<Piece> {
        if let Some(front) = self.queue.pop_front() {
            return Some(front);
        }
        if self.tail.is_empty() {
            return None;
        }
        Some((std::mem::take(&mut self.tail).freeze(), std::mem::take(&mut self.tail_cost)))
    }

    /// Once `threshold` is owed: what to return to the peer, with the window moved towards what the reader can take.
    fn grant(&mut self, threshold: u32, ledger: &Ledger) -> u32 {
        if self.fin_in || self.owed < threshold || self.owed == 0 {
            return 0;
        }
        let now = Instant::now();
        let took = now.saturating_duration_since(self.last_grant);
        self.last_grant = now;
        let mut credit = std::mem::take(&mut self.owed);
        if took < FAST && self.window < ledger.ceiling {
            let more = self.window.min(ledger.ceiling - self.window);
            if ledger.grow(more) {
                self.window += more;
                credit = credit.saturating_add(more);
            }
        } else if took > SLOW && self.window > SMALL_WINDOW.saturating_mul(2) {
            let less = (self.window / 2).min(credit);
            ledger.release(less);
            self.window -= less;
            credit -= less;
        }
        self.granted = self.granted.saturating_add(credit);
        credit
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.discard_unread();
        self.ledger.release(self.lock().window);
        self.ledger.streams.fetch_sub(1, Relaxed);
    }
}

/// What a DATA frame of `length` bytes uses of the window: the constant part bounds how many tiny ones can queue.
pub(crate) fn cost(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX).saturating_add(COST)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
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
