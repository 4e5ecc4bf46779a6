use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::metrics::Metrics;

/// The memory that unread answers of all such links together may take.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    metrics: Arc<Metrics>,
}

impl Budget {
    pub fn limited(limit: usize, metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { limit, metrics: Arc::clone(metrics) })
    }

    /// None: there is no room for so many more for one that has `waiting` bytes waiting already.
    ///
    /// None gets more than it leaves to others: however many do not read, one that begins finds as much room as each of
    /// them has taken.
    pub(super) fn take(self: &Arc<Self>, bytes: usize, waiting: usize) -> Option<Held> {
        let (limit, more, waiting) = (signed(self.limit), signed(bytes), signed(waiting));
        let fits = |taken: i64| {
            let free = limit - taken;
            (more <= free && (waiting == 0 || waiting.saturating_add(more) <= free)).then(|| taken + more)
        };
        self.metrics.message_unread_bytes.fetch_update(Relaxed, Relaxed, fits).ok()?;
        Some(Held { budget: Arc::clone(self), bytes })
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

/// A part of the budget, until dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.metrics.message_unread_bytes.fetch_sub(signed(self.bytes), Relaxed);
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
