//! What the driver, the handles and the streams of one link share.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence},
};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    accept::ControlFrame,
    closed::{Closed, OpenError},
    config::{Config, Role, Windows},
    output::Output,
    signals::{LINK, OUTPUT, READ, Signals},
    stats::Counters,
    stream::{MuxStream, state::StreamState},
    table::Table,
    unread::Unread,
};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const NOT_STARTED: u8 = 0;
const FIXED: u8 = 1;
const TUNED: u8 = 2;

/// Streams that the peer has not acknowledged yet, at most (hashicorp/yamux, `AcceptBacklog`).
const BACKLOG: usize = 256;

/// The driver is woken for more messages when no more than this is left of those that made it pause.
const FEW_BYTES: usize = 1 << 20;

/// A window is a u32.
const MOST_WIDENED: usize = 1 << 30;

/// Of the locks, whoever holds several takes them in this order: that of the table, one stream's, that of the output.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) role: Role,
    pub(crate) max_streams: usize,
    pub(crate) signals: Arc<Signals>,
    pub(crate) counters: Counters,
    pub(crate) table: Mutex<Table>,
    pub(crate) output: Mutex<Output>,
    /// For those who open: one for each stream that the peer may yet leave unacknowledged.
    pub(crate) backlog: Semaphore,
    /// Streams that have ended on the wire and are still in the table.
    pub(crate) over: AtomicUsize,
    /// What the windows of all streams have beyond the first, and the most that it may be.
    widened: AtomicUsize,
    window_total: usize,
    /// Bytes of text waiting in the incoming control queue.
    pub(crate) control_bytes: AtomicUsize,
    /// The peer's control messages may come faster than they are taken.
    bulk: AtomicBool,
    /// The driver reads nothing before some of them are.
    paused: AtomicBool,
    /// What all streams have received and not read, on this link and others.
    pub(crate) unread: Arc<Unread>,
    started: AtomicU8,
    close: Mutex<Option<(CloseCode, &'static str)>>,
    closed: watch::Sender<Option<Closed>>,
}

impl Shared {
    pub(crate) fn new(role: Role, config: &Config) -> Self {
        Self {
            role,
            max_streams: config.max_streams(),
            signals: Arc::default(),
            counters: Counters::default(),
            table: Mutex::default(),
            output: Mutex::default(),
            backlog: Semaphore::new(BACKLOG),
            over: AtomicUsize::new(0),
            widened: AtomicUsize::new(0),
            window_total: config.stream_window_total.min(MOST_WIDENED),
            control_bytes: AtomicUsize::new(0),
            bulk: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            unread: config.unread.clone(),
            started: AtomicU8::new(NOT_STARTED),
            close: Mutex::default(),
            closed: watch::Sender::default(),
        }
    }

    pub(crate) fn start(&self, windows: Windows) {
        let value = match windows {
            Windows::Fixed => FIXED,
            Windows::Tuned => TUNED,
        };
        // The first call decides: streams may be open at the second.
        let _started = self.started.compare_exchange(NOT_STARTED, value, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(crate) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire) != NOT_STARTED
    }

    pub(crate) fn expect_bulk(&self) {
        self.bulk.store(true, Ordering::Release);
    }

    /// For the driver: whether so many messages wait in `control` that further ones have to wait in the socket. It is
    /// woken when few are left.
    pub(crate) fn has_to_pause(&self, control: &mpsc::Sender<ControlFrame>, config: &Config) -> bool {
        let much = || {
            let waiting = self.control_bytes.load(Ordering::Acquire);
            2 * control.capacity() <= control.max_capacity()
                || waiting > 0 && waiting.saturating_add(config.max_message) > config.control_bytes
        };
        if !self.bulk.load(Ordering::Acquire) || !much() {
            return false;
        }
        self.paused.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // Whoever has taken some before it could see the mark wakes nobody.
        much()
    }

    /// One message of `left` more, which still wait, was taken.
    pub(crate) fn took_control(&self, bytes: usize, left: usize, most: usize) {
        let waiting = self.control_bytes.fetch_sub(bytes, Ordering::AcqRel).saturating_sub(bytes);
        fence(Ordering::SeqCst);
        let few = 4 * left <= most && (left == 0 || waiting <= FEW_BYTES);
        if few && self.paused.load(Ordering::SeqCst) && self.paused.swap(false, Ordering::SeqCst) {
            self.signals.raise(READ);
        }
    }

    /// Whether a window may be doubled; its size is then taken from what there is for all. One gets no more than half of
    /// what is left, and not so much that it alone could fill what may be left unread.
    pub(crate) fn widen(&self, window: u32) -> bool {
        let more = usize::try_from(window).unwrap_or(usize::MAX);
        let fits = |widened: &usize| more <= (self.window_total - widened) / 2;
        self.started.load(Ordering::Acquire) == TUNED
            && self.unread.has_room_for(2 * more)
            && self
                .widened
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |widened| fits(&widened).then(|| widened + more))
                .is_ok()
    }

    /// Gives back what a window had beyond the first.
    pub(crate) fn narrow(&self, less: u32) {
        self.widened.fetch_sub(usize::try_from(less).unwrap_or(0), Ordering::AcqRel);
    }

    /// A new stream of this end, if that can be had now. The caller holds a permit of `backlog` for it.
    pub(crate) fn open(self: &Arc<Self>) -> Result<MuxStream, OpenError> {
        let mut table = lock(&self.table);
        self.may_open(&table)?;
        let Some(id) = table.next_id(self.role) else {
            // Another link begins at the first again.
            self.request_close(CloseCode::Away, "stream ids are used up");
            return Err(OpenError::GoingAway);
        };
        let stream = StreamState::opened(id, Arc::clone(self));
        table.insert(Arc::clone(&stream));
        self.counters.open_streams.store(table.len(), Ordering::Relaxed);
        drop(table);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        Ok(MuxStream::new(stream))
    }

    pub(crate) fn may_open(&self, table: &Table) -> Result<(), OpenError> {
        if table.ended {
            return Err(OpenError::Closed(self.why_closed().unwrap_or(Closed::Dropped)));
        }
        if !self.is_started() {
            return Err(OpenError::NotStarted);
        }
        if table.going_away {
            return Err(OpenError::GoingAway);
        }
        if table.len() >= self.max_streams {
            return Err(OpenError::TooManyStreams(self.max_streams));
        }
        Ok(())
    }

    /// A stream is of no further interest. `over`: it was counted as such.
    pub(crate) fn forget(&self, id: u32, over: bool) {
        let mut table = lock(&self.table);
        table.remove(id);
        if over {
            self.over.fetch_sub(1, Ordering::Relaxed);
        }
        if !table.ended {
            self.counters.open_streams.store(table.len(), Ordering::Relaxed);
        }
    }

    /// Something was added to the output.
    pub(crate) fn said(&self) {
        self.signals.raise(OUTPUT);
    }

    /// Ends every stream; what they have received stays readable.
    pub(crate) fn end_streams(&self) {
        let streams = lock(&self.table).end();
        self.counters.open_streams.store(0, Ordering::Relaxed);
        self.backlog.close();
        for stream in streams {
            stream.cut();
        }
        lock(&self.output).end();
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
