use std::time::Duration;

/// Waits between attempts: doubling up to a maximum, each varied by ±25 % so that many agents do not come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max: max.max(initial), next: initial }
    }

    /// The wait before the coming attempt.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        wait.mul_f64(rand::random_range(0.75..=1.25))
    }

    /// The last attempt was good: begin with the short wait again.
    pub fn reset(&mut self) {
        self.next = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(15);

    #[test]
    fn waits_double_up_to_the_maximum_with_a_quarter_of_jitter() {
        let mut backoff = Backoff::new(INITIAL, MAX);
        for expected in [1.0, 2.0, 4.0, 8.0, 15.0, 15.0] {
            let wait = backoff.wait().as_secs_f64();
            assert!((expected * 0.75..=expected * 1.25).contains(&wait), "{wait} for {expected}");
        }
        backoff.reset();
        assert!(backoff.wait().as_secs_f64() <= 1.25);
    }

    #[test]
    fn two_agents_do_not_wait_alike() {
        let waits: Vec<_> = (0..8).map(|_| Backoff::new(INITIAL, MAX).wait()).collect();
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]), "{waits:?}");
    }
}
