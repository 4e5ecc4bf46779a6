//! How much the users of one cluster may ask of it, so that they harm no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use crate::options;

const SECOND: u64 = 1_000_000_000;

/// What is allowed to each cluster; 0 is without limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub requests_per_second: u32,
    pub burst: u32,
    pub max_requests: usize,
}

impl From<&options::Links> for Limits {
    fn from(options: &options::Links) -> Self {
        Self {
            requests_per_second: options.requests_per_second,
            burst: options.requests_burst,
            max_requests: options.max_requests,
        }
    }
}

impl Limits {
    /// Of those who visit web apps.
    pub fn of_visitors(options: &options::Options) -> Self {
        Self { max_requests: options.gateway.max_requests, ..Self::from(&options.links) }
    }
}

/// What has been asked of one cluster. Requests do not queue, and take no lock.
#[derive(Debug)]
pub struct Asked {
    begun: Instant,
    /// When all that were let in would have come one after the other at the rate that is allowed, in nanoseconds since
    /// `begun`: how far that is ahead of the present is what is taken of the burst.
    due: AtomicU64,
    open: AtomicUsize,
}

/// Why a request has to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    #[error("more than {0} requests per second (links.requests_per_second)")]
    Rate(u32),
    #[error("{0} requests are under way at once (links.max_requests)")]
    Open(usize),
}

/// A request under way, until dropped.
#[derive(Debug)]
pub struct Place(Arc<Asked>);

impl Default for Asked {
    fn default() -> Self {
        Self { begun: Instant::now(), due: AtomicU64::new(0), open: AtomicUsize::new(0) }
    }
}

impl Asked {
    /// Lets a request in, if that is within `limits`.
    pub fn enter(self: &Arc<Self>, limits: &Limits) -> Result<Place, TooMany> {
        // A place first: one that is refused because of its absence takes nothing of the rate.
        let fits = |open: usize| (limits.max_requests == 0 || open < limits.max_requests).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, fits).map_err(TooMany::Open)?;
        let place = Place(Arc::clone(self));
        let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if self.is_due(now, limits) { Ok(place) } else { Err(TooMany::Rate(limits.requests_per_second)) }
    }

    fn is_due(&self, now: u64, limits: &Limits) -> bool {
        let Some(interval) = SECOND.checked_div(limits.requests_per_second.into()) else { return true };
        let ahead = interval.saturating_mul(limits.burst.max(1).into());
        let next = |due: u64| Some(due.max(now) + interval).filter(|next| *next - now <= ahead);
        self.due.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_in_and_then_the_rate() {
        let limits = Limits { requests_per_second: 10, burst: 5, max_requests: 0 };
        let asked = Asked::default();
        let let_in = |now_ms: u64| (0..100).filter(|_| asked.is_due(now_ms * 1_000_000, &limits)).count();
        assert_eq!(let_in(0), 5);
        assert_eq!((let_in(99), let_in(100), let_in(150)), (0, 1, 0));
        assert_eq!(let_in(350), 2);
        assert_eq!(let_in(60_000), 5, "what was not used for long is not more than a burst");
        assert_eq!(let_in(61_000), 5, "at most what has become due in the second before");
        let slow = Limits { requests_per_second: 10, burst: 0, max_requests: 0 };
        assert!(asked.is_due(90_000_000_000, &slow) && !asked.is_due(90_000_000_000, &slow), "one at least");
    }

    #[test]
    fn without_a_limit_everything_is_let_in() {
        let asked = Arc::new(Asked::default());
        let places: Vec<_> = (0..10_000).map(|_| asked.enter(&Limits::default()).unwrap()).collect();
        assert_eq!(asked.open.load(Relaxed), places.len());
    }

    #[test]
    fn a_place_is_free_again_once_its_request_is_over() {
        let limits = Limits { requests_per_second: 0, burst: 0, max_requests: 2 };
        let asked = Arc::new(Asked::default());
        let (first, _second) = (asked.enter(&limits).unwrap(), asked.enter(&limits).unwrap());
        assert_eq!(asked.enter(&limits).unwrap_err(), TooMany::Open(2));
        drop(first);
        let _third = asked.enter(&limits).unwrap();
        // One that is refused because of the rate keeps none.
        let rate = Limits { requests_per_second: 1, burst: 1, max_requests: 3 };
        let _fourth = asked.enter(&rate).unwrap();
        drop(_fourth);
        for _ in 0..5 {
            assert_eq!(asked.enter(&rate).unwrap_err(), TooMany::Rate(1));
        }
        assert_eq!(asked.open.load(Relaxed), 2);
    }

    #[test]
    fn many_at_once_get_no_more_than_one_after_the_other() {
        let limits = Limits { requests_per_second: 1, burst: 1000, max_requests: 0 };
        let asked = Asked::default();
        let let_in = std::thread::scope(|scope| {
            let count = || (0..1000).filter(|_| asked.is_due(5, &limits)).count();
            let counting: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            counting.into_iter().map(|counting| counting.join().unwrap()).sum::<usize>()
        });
        assert_eq!(let_in, 1000);
    }
}
