//! Which part of the driver's work was woken.
//!
//! Without this every wake-up would poll everything, and a poll of the WebSocket that finds nothing still clears its
//! read buffer. Wake-ups while the driver runs only leave their mark: it looks again before it sleeps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Wake, Waker},
};

use futures::task::AtomicWaker;

/// The socket may have something to read.
pub(crate) const READ: u8 = 1;
/// The socket may take more.
pub(crate) const WRITE: u8 = 2;
/// There is something new in the output.
pub(crate) const OUTPUT: u8 = 4;
/// The timer ran out.
pub(crate) const TIMER: u8 = 8;
/// A handle asked for something that is not in a queue.
pub(crate) const LINK: u8 = 16;
const RUNNING: u8 = 128;

#[derive(Debug, Default)]
pub(crate) struct Signals {
    bits: AtomicU8,
    task: AtomicWaker,
}

impl Signals {
    pub(crate) fn raise(&self, bit: u8) {
        let before = self.bits.fetch_or(bit, Ordering::AcqRel);
        if before & (RUNNING | bit) == 0 {
            self.task.wake();
        }
    }

    /// The driver starts to run; `waker` is its task.
    pub(crate) fn begin(&self, waker: &Waker) {
        self.task.register(waker);
        self.bits.fetch_or(RUNNING, Ordering::AcqRel);
    }

    /// What was raised since the last call.
    pub(crate) fn take(&self) -> u8 {
        self.bits.fetch_and(RUNNING, Ordering::AcqRel) & !RUNNING
    }

    /// True: nothing new was raised, and from now on wake-ups reach the task. False: look again.
    pub(crate) fn sleep(&self) -> bool {
        self.bits.compare_exchange(RUNNING, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Stops running with `left` still to do; the caller wakes its own task.
    pub(crate) fn pause(&self, left: u8) {
        self.bits.fetch_or(left, Ordering::AcqRel);
        self.bits.fetch_and(!RUNNING, Ordering::AcqRel);
    }

    pub(crate) fn waker(self: &Arc<Self>, bit: u8) -> Waker {
        Waker::from(Arc::new(Signal { signals: self.clone(), bit }))
    }
}

struct Signal {
    signals: Arc<Signals>,
    bit: u8,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.signals.raise(self.bit);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.signals.raise(self.bit);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_running_driver_is_not_woken_but_looks_again() {
        let signals = Arc::new(Signals::default());
        let count = Arc::new(Count::default());
        signals.begin(&Waker::from(count.clone()));
        signals.waker(OUTPUT).wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        assert!(!signals.sleep());
        assert_eq!(signals.take(), OUTPUT);
        assert!(signals.sleep());
        signals.raise(READ);
        signals.raise(READ);
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "a second mark of the same kind needs no second wake-up");
    }

    #[test]
    fn work_left_over_survives_a_pause() {
        let signals = Arc::new(Signals::default());
        signals.begin(Waker::noop());
        assert_eq!(signals.take(), 0);
        signals.pause(WRITE);
        signals.begin(Waker::noop());
        assert_eq!(signals.take(), WRITE);
    }
}
