//! What the control plane has sent for an exchange that has not taken it yet. There is no flow control in these messages,
//! so it is bounded, by exchange and by link, and never waits for room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use mux::{Budget, Held};

/// What each piece counts beside its bytes.
const COST: usize = 128;

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Taken,
    /// Taken, and for the first time half of what may wait does.
    Half,
    /// Not taken: this exchange may have no more waiting.
    Full,
    /// Not taken: all exchanges of the link together may have no more waiting.
    LinkFull,
    /// Not taken: the end was there before.
    Late,
    /// Nobody wants it any more.
    Unwanted,
}

/// The end of a queue that pieces are put into; never waits.
#[derive(Debug)]
pub struct Inbox<T>(Arc<Shared<T>>);

/// The end of a queue that an exchange takes pieces from.
#[derive(Debug)]
pub struct Outlet<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    budget: Arc<Budget>,
    limit: usize,
}

#[derive(Debug)]
struct State<T> {
    pieces: VecDeque<(T, Held)>,
    bytes: usize,
    ended: bool,
    half: bool,
    unwanted: bool,
    /// Whoever waits for a piece.
    taker: Option<Waker>,
    /// Whoever waits for the end, pieces or not.
    watcher: Option<Waker>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A queue of at most `limit` bytes, within `budget`.
pub fn inbox<T>(budget: &Arc<Budget>, limit: usize) -> (Inbox<T>, Outlet<T>) {
    let state = State {
        pieces: VecDeque::new(),
        bytes: 0,
        ended: false,
        half: false,
        unwanted: false,
        taker: None,
        watcher: None,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), budget: Arc::clone(budget), limit });
    (Inbox(Arc::clone(&shared)), Outlet(shared))
}

impl<T> Inbox<T> {
    /// Puts a piece of so many bytes behind the others.
    pub fn push(&self, piece: T, bytes: usize) -> Pushed {
        let bytes = bytes.saturating_add(COST);
        let mut state = self.0.lock();
        if state.ended {
            return Pushed::Late;
        }
        if state.unwanted {
            return Pushed::Unwanted;
        }
        if state.bytes.saturating_add(bytes) > self.0.limit {
            return Pushed::Full;
        }
        let Some(held) = self.0.budget.take(bytes) else { return Pushed::LinkFull };
        state.bytes += bytes;
        state.pieces.push_back((piece, held));
        let half = !state.half && state.bytes > self.0.limit / 2;
        state.half |= half;
        let taker = state.taker.take();
        drop(state);
        if let Some(taker) = taker {
            taker.wake();
        }
        if half { Pushed::Half } else { Pushed::Taken }
    }

    /// Nothing follows. False: that was so already.
    pub fn end(&self) -> bool {
        let mut state = self.0.lock();
        let first = !std::mem::replace(&mut state.ended, true);
        let wakers = [state.taker.take(), state.watcher.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        first
    }
}

impl<T> Outlet<T> {
    /// The next piece; none once all that came before the end was taken.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock();
        if let Some((piece, held)) = state.pieces.pop_front() {
            state.bytes -= held.bytes();
            drop(state);
            return Poll::Ready(Some(piece));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.taker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// [`poll_next`](Self::poll_next) as a future; losing it loses nothing.
    pub async fn next(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Whether nothing is left, and nothing will come.
    pub fn is_over(&self) -> bool {
        let state = self.0.lock();
        state.ended && state.pieces.is_empty()
    }

    /// Resolves at the end, although pieces may wait before it.
    pub fn end(&self) -> impl Future<Output = ()> + Send + use<T>
    where
        T: Send,
    {
        let shared = Arc::clone(&self.0);
        std::future::poll_fn(move |cx| {
            let mut state = shared.lock();
            if state.ended {
                return Poll::Ready(());
            }
            state.watcher = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl<T> Drop for Outlet<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.unwanted = true;
        let pieces = std::mem::take(&mut state.pieces);
        drop(state);
        drop(pieces);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_bounded_by_exchange_and_by_link() {
        let budget = Budget::limited(4 * COST + 30);
        let (first, mut taker) = inbox::<u8>(&budget, 2 * COST + 20);
        assert_eq!(first.push(1, 10), Pushed::Taken);
        assert_eq!(first.push(2, 10), Pushed::Half);
        assert_eq!(first.push(3, 0), Pushed::Full);
        let (second, other) = inbox::<u8>(&budget, 1 << 20);
        assert_eq!(second.push(1, 10), Pushed::Taken);
        assert_eq!(second.push(1, 10), Pushed::LinkFull);
        drop(other);
        assert_eq!(second.push(1, 10), Pushed::Unwanted);
        assert_eq!(taker.next().await, Some(1));
        assert_eq!(first.push(3, 10), Pushed::Taken, "half is said once");
        assert!(first.end() && !first.end());
        assert_eq!(first.push(4, 0), Pushed::Late);
        assert_eq!((taker.next().await, taker.next().await), (Some(2), Some(3)));
        assert_eq!(taker.next().await, None);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn the_end_shows_although_pieces_wait() {
        let (inbox, outlet) = inbox::<u8>(&Budget::limited(1 << 20), 1 << 20);
        inbox.push(1, 1);
        let end = outlet.end();
        inbox.end();
        end.await;
        assert!(!outlet.is_over());
    }
}
