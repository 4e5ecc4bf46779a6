use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15);

/// The waits of a gateway-link by its defaults: 1, 2, 4, 8, 15 s, each a quarter more or less.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        wait.mul_f64(rand::random_range(0.75..=1.25))
    }

    /// The last link was a good one.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }
}
