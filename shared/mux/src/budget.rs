use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use opentelemetry::metrics::Meter;

/// The memory that may be held for what came in messages and waits. Streams have windows; messages have nothing else.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    #[must_use]
    pub fn limited(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// Shows how much is held as a gauge of this name.
    pub fn register(self: &Arc<Self>, meter: &Meter, name: &'static str, description: &'static str) {
        let budget = Arc::clone(self);
        let _used = meter
            .u64_observable_gauge(name)
            .with_description(description)
            .with_callback(move |observer| observer.observe(budget.used() as u64, &[]))
            .build();
    }

    /// How many bytes are held.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// None: there is not so much left.
    #[must_use]
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        self.take_beside(bytes, 0)
    }

    /// The same for one that holds `waiting` bytes already: with these it gets no more than is free now. However many do
    /// not read, one that begins finds as much room as each of them has taken.
    #[must_use]
    pub fn take_beside(self: &Arc<Self>, bytes: usize, waiting: usize) -> Option<Held> {
        let fits = |used: usize| {
            let free = self.limit.saturating_sub(used);
            let with_waiting = if waiting == 0 { bytes } else { waiting.saturating_add(bytes) };
            (with_waiting <= free).then_some(used + bytes)
        };
        self.used.fetch_update(Relaxed, Relaxed, fits).ok()?;
        Some(Held { budget: Arc::clone(self), bytes })
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Held {
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more with it. False: there is not so much left.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let Some(mut more) = self.budget.take(bytes) else { return false };
        self.bytes += std::mem::take(&mut more.bytes);
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_grows_is_given_back_whole() {
        let budget = Budget::limited(100);
        let mut held = budget.take(40).unwrap();
        assert!(held.grow(60) && !held.grow(1));
        drop(held);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn whoever_holds_much_gets_no_more() {
        let budget = Budget::limited(100);
        let first = budget.take(40).unwrap();
        assert!(budget.take_beside(21, first.bytes()).is_none(), "61 where 60 are free");
        let _more = budget.take_beside(20, first.bytes()).unwrap();
        assert!(budget.take(41).is_none() && budget.take(40).is_some());
    }
}
