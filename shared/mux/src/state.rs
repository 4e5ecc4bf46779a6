//! What the driver, the handles and the streams of one link share.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use tokio::sync::watch;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    closed::Closed,
    config::Windows,
    signals::{LINK, Signals},
    stats::Counters,
    unread::Unread,
};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const NOT_STARTED: u8 = 0;
const FIXED: u8 = 1;
const TUNED: u8 = 2;

#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) signals: Arc<Signals>,
    pub(crate) counters: Counters,
    /// Streams dropped by their users whose end the driver has yet to see out.
    pub(crate) dropped: Mutex<Vec<u32>>,
    /// Bytes of text waiting in the incoming control queue.
    pub(crate) control_bytes: AtomicUsize,
    /// What all streams have received and not read, on this link and others.
    pub(crate) unread: Arc<Unread>,
    /// What all streams of this link have written and yamux has yet to pass on.
    pub(crate) unsent: AtomicUsize,
    started: AtomicU8,
    close: Mutex<Option<(CloseCode, &'static str)>>,
    closed: watch::Sender<Option<Closed>>,
}

impl Shared {
    pub(crate) fn new(signals: Arc<Signals>, unread: Arc<Unread>) -> Self {
        Self { signals, unread, ..Self::default() }
    }

    pub(crate) fn start(&self, windows: Windows) {
        let value = match windows {
            Windows::Fixed => FIXED,
            Windows::Tuned => TUNED,
        };
        // The first call decides: yamux cannot change its windows later.
        if self.started.compare_exchange(NOT_STARTED, value, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.signals.raise(LINK);
        }
    }

    pub(crate) fn windows(&self) -> Option<Windows> {
        match self.started.load(Ordering::Acquire) {
            FIXED => Some(Windows::Fixed),
            TUNED => Some(Windows::Tuned),
            _ => None,
        }
    }

    pub(crate) fn request_close(&self, code: CloseCode, reason: &'static str) {
        lock(&self.close).get_or_insert((code, reason));
        self.signals.raise(LINK);
    }

    pub(crate) fn close_requested(&self) -> Option<(CloseCode, &'static str)> {
        *lock(&self.close)
    }

    /// Only the first reason counts.
    pub(crate) fn finish(&self, why: Closed) {
        self.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            if first {
                *closed = Some(why);
            }
            first
        });
    }

    pub(crate) fn why_closed(&self) -> Option<Closed> {
        self.closed.borrow().clone()
    }

    pub(crate) async fn closed(&self) -> Closed {
        let mut closed = self.closed.subscribe();
        match closed.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            Ok(None) | Err(_) => Closed::Dropped,
        }
    }
}
