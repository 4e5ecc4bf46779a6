//! The memory that unread data may take.
//!
//! A window that was given to the peer cannot be taken back, and each stream has 256 KiB from the start, so streams that nobody
//! reads could hold as many times that as there are streams. Above the limit the worst of them are reset: those of which much has waited for long.
//! Whoever has read before may be late, up to 64 times as late as who has not, before it comes to that.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::Instant;

use crate::state::{Shared, lock};

/// What streams have received and nobody has read yet, over all links that share this; and the most that it may be.
#[derive(Debug, Default)]
pub struct Unread {
    limit: usize,
    bytes: AtomicUsize,
    links: Mutex<Vec<Weak<Shared>>>,
}

impl Unread {
    /// At most `limit` bytes, and what arrives in one message of a link.
    #[must_use]
    pub fn limited(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// How many there are now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// So much more would leave half of the limit to others.
    pub(crate) fn has_room_for(&self, more: usize) -> bool {
        self.bytes() + more <= self.limit / 2
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The streams of `link` count from now on.
    pub(crate) fn join(&self, link: &Arc<Shared>) {
        let mut links = lock(&self.links);
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(link));
    }

    /// Resets streams while there is too much. To be called without any lock.
    pub(crate) fn relieve(&self) {
        if self.bytes() <= self.limit {
            return;
        }
        // One at a time; the others find it done.
        let links = lock(&self.links);
        if self.bytes() <= self.limit {
            return;
        }
        let now = Instant::now();
        let mut streams = Vec::new();
        for link in links.iter().filter_map(Weak::upgrade) {
            let table = lock(&link.table);
            streams.extend(table.streams().filter_map(|stream| Some((stream.burden(now)?, Arc::clone(stream)))));
        }
        streams.sort_unstable_by_key(|(burden, _)| std::cmp::Reverse(*burden));
        // Somewhat below, so that not every further frame begins a search.
        let enough = self.limit - self.limit / 8;
        let mut reset = 0;
        for (_, stream) in streams {
            if self.bytes() <= enough {
                break;
            }
            if stream.evict() {
                stream.shared.counters.evicted.fetch_add(1, Ordering::Relaxed);
                reset += 1;
            }
        }
        tracing::warn!(reset, limit = self.limit, "what streams leave unread is above the limit: the worst were reset");
    }
}
