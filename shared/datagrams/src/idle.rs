use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Knows when something moved last.
#[derive(Debug)]
pub struct Idle {
    last: Mutex<Instant>,
    limit: Duration,
}

impl Idle {
    /// With a limit of 0 it never comes.
    pub fn new(limit: Duration) -> Self {
        Self { last: Mutex::new(Instant::now()), limit }
    }

    pub fn moved(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Resolves once nothing has moved for the limit.
    pub async fn too_long(&self) {
        if self.limit.is_zero() {
            std::future::pending::<()>().await;
        }
        loop {
            let until = *self.last.lock().unwrap_or_else(PoisonError::into_inner) + self.limit;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}
