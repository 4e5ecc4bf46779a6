use std::time::Duration;

use crate::options::Reconnect;

/// Waits between attempts: doubling up to a maximum, each varied by ±25 % so that many agents do not come back at once.
#[derive(Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(options: &Reconnect) -> Self {
        let initial = options.initial.get();
        Self { initial, max: options.max.get().max(initial), next: initial }
    }

    /// The wait before the coming attempt.
    pub fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        wait.mul_f64(rand::random_range(0.75..=1.25))
    }

    /// The last connection was good: begin with the short wait again.
    pub fn reset(&mut self) {
        self.next = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_with_a_quarter_of_jitter() {
        let options = Reconnect::default();
        let mut backoff = Backoff::new(&options);
        for expected in [1.0, 2.0, 4.0, 8.0, 15.0, 15.0] {
            let wait = backoff.next().as_secs_f64();
            assert!((expected * 0.75..=expected * 1.25).contains(&wait), "{wait} for {expected}");
        }
        backoff.reset();
        assert!(backoff.next().as_secs_f64() <= 1.25);
    }

    #[test]
    fn two_agents_do_not_wait_alike() {
        let options = Reconnect::default();
        let waits: Vec<_> = (0..8).map(|_| Backoff::new(&options).next()).collect();
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]), "{waits:?}");
    }
}
