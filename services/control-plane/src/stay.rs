//! How long a connection may stay. Its place is for those with a token: one that shows none has to make room.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug)]
pub struct StayLimits {
    /// From the start of the connection to its first request with a valid token.
    pub unknown: Duration,
    /// From the end of the last such request to the next.
    pub idle: Duration,
    /// For a connection that is told to end to do so, before it is cut.
    pub grace: Duration,
}

impl Default for StayLimits {
    /// Idle ones stay longer than clients keep them themselves (Go: 90 s), so that none sends on one being closed.
    fn default() -> Self {
        Self { unknown: Duration::from_secs(30), idle: Duration::from_secs(120), grace: Duration::from_secs(5) }
    }
}

/// What a connection has shown so far.
#[derive(Debug)]
pub struct Stay {
    limits: StayLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests with a valid token.
    under_way: usize,
    /// When it is over, if none is.
    until: Instant,
}

impl Stay {
    pub fn begin(limits: StayLimits) -> Arc<Self> {
        let until = Instant::now() + limits.unknown;
        Arc::new(Self { limits, state: Mutex::new(State { under_way: 0, until }) })
    }

    /// A request with a valid token, until dropped.
    pub fn authenticated(self: &Arc<Self>) -> Authenticated {
        self.state().under_way += 1;
        Authenticated(Arc::clone(self))
    }

    /// Cancels `stop` when it is over, so that the connection ends. Resolves when it has not, and has to be cut: a client
    /// need not let a response end.
    pub async fn overstayed(&self, stop: &CancellationToken) {
        self.over().await;
        stop.cancel();
        sleep(self.limits.grace).await;
        // A request may have come meanwhile.
        self.over().await;
    }

    /// Resolves when it is over.
    async fn over(&self) {
        loop {
            let now = Instant::now();
            let until = match *self.state() {
                State { under_way: 0, until } => until,
                State { .. } => now + self.limits.idle,
            };
            if until <= now {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps its connection.
#[derive(Debug)]
pub struct Authenticated(Arc<Stay>);

impl Drop for Authenticated {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.under_way -= 1;
        state.until = Instant::now() + self.0.limits.idle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_stay_lasts_as_long_as_a_request_and_is_over_when_none_follows() {
        let short = Duration::from_millis(10);
        let stay = Stay::begin(StayLimits { unknown: short, idle: short, grace: short });
        let (first, second) = (stay.authenticated(), stay.authenticated());
        drop(first);
        assert!(timeout(20 * short, stay.over()).await.is_err(), "over while a request is under way");
        drop(second);
        timeout(Duration::from_secs(20), stay.over()).await.expect("it is not over");
    }
}
