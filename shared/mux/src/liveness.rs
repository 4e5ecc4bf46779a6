//! When to ping, and when the peer counts as dead.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;

/// The round trip is wanted soon: it says how large windows have to be.
const FIRST_PING: Duration = Duration::from_secs(1);

/// Whatever moves proves life, not pongs alone: on a slow uplink a pong waits behind our own bulk.
#[derive(Debug)]
pub(crate) struct Liveness {
    ping_interval: Duration,
    dead_after: Duration,
    next_ping: Instant,
    /// Number of the ping in flight and when it was queued.
    pinged: Option<(u64, Instant)>,
    count: u64,
}

impl Liveness {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        Self {
            ping_interval: config.ping_interval,
            dead_after: config.dead_after,
            next_ping: now + config.ping_interval.min(FIRST_PING),
            pinged: None,
            count: 0,
        }
    }

    /// The payload of a ping that is due.
    pub(crate) fn ping(&mut self, now: Instant) -> Option<[u8; 8]> {
        if now < self.next_ping {
            return None;
        }
        self.next_ping = now + self.ping_interval;
        self.count += 1;
        self.pinged = Some((self.count, now));
        Some(self.count.to_be_bytes())
    }

    /// The round trip, when `payload` answers the last ping.
    pub(crate) fn pong(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        let (count, at) = self.pinged?;
        if payload != count.to_be_bytes() {
            return None;
        }
        self.pinged = None;
        Some(now - at)
    }

    /// For how long nothing has moved, when that is too long. `last`: when something last did.
    pub(crate) fn dead(&self, last: Instant, now: Instant) -> Option<Duration> {
        let silent = now - last;
        (silent >= self.dead_after).then_some(silent)
    }

    /// When to look again.
    pub(crate) fn next(&self, last: Instant) -> Instant {
        self.next_ping.min(last + self.dead_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn liveness() -> (Liveness, Instant) {
        let now = Instant::now();
        let config =
            Config { ping_interval: Duration::from_secs(10), dead_after: Duration::from_secs(20), ..Config::default() };
        (Liveness::new(&config, now), now)
    }

    #[test]
    fn silence_is_death() {
        let (liveness, start) = liveness();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(liveness.dead(start, at(19)), None);
        assert_eq!(liveness.dead(start, at(20)), Some(Duration::from_secs(20)));
        assert_eq!(liveness.next(start), at(1));
        assert_eq!(liveness.dead(at(19), at(38)), None);
        assert!(liveness.dead(at(19), at(39)).is_some());
    }

    #[test]
    fn only_the_answer_to_the_last_ping_is_a_round_trip() {
        let (mut liveness, start) = liveness();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(liveness.ping(at(0)), None);
        let first = liveness.ping(at(1)).unwrap();
        assert_eq!(liveness.ping(at(2)), None);
        let second = liveness.ping(at(11)).unwrap();
        assert_eq!(liveness.pong(&first, at(12)), None);
        assert_eq!(liveness.pong(b"", at(12)), None);
        assert_eq!(liveness.pong(&second, at(13)), Some(Duration::from_secs(2)));
        assert_eq!(liveness.pong(&second, at(14)), None);
    }
}
