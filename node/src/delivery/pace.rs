//! How fast a client may send.
//!
//! A leaky bucket kept as one instant (the generic cell rate algorithm), because each connection
//! has one. Invariant: over any time `t`, at most `rate × t + burst` are let through.

use std::time::Duration;

use cluster::env::clock::Instant;

/// A rate limit's state.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// When the bucket will be empty.
    empty_at: Instant,
    interval: Duration,
    /// How far ahead `empty_at` may lie.
    depth: Duration,
}

impl Pace {
    /// `per_s` a second (at least 1), and as many at once after a second's rest.
    #[must_use]
    pub fn new(per_s: u32) -> Self {
        let interval = Duration::from_secs(1) / per_s.max(1);
        Self { empty_at: Instant::default(), interval, depth: Duration::from_secs(1) - interval }
    }

    /// From when on the next one may go.
    #[must_use]
    pub fn ready_at(&self) -> Instant {
        self.empty_at - self.depth
    }

    /// As [`Pace::ready_at`], where so much of the burst is left to others.
    #[must_use]
    pub fn ready_at_leaving(&self, reserve: Duration) -> Instant {
        self.empty_at - self.depth.saturating_sub(reserve)
    }

    /// Whether the next one may go now.
    #[must_use]
    pub fn ready(&self, now: Instant) -> bool {
        self.ready_at() <= now
    }

    /// One goes.
    pub fn take(&mut self, now: Instant) {
        self.empty_at = self.empty_at.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_through_the_rate_and_no_more() {
        let start = Instant::from_nanos(5_000_000_000);
        let mut pace = Pace::new(10);
        let mut burst = 0;
        while pace.ready(start) {
            pace.take(start);
            burst += 1;
        }
        assert_eq!(burst, 10);
        let (mut now, mut passed) = (start, 0);
        while now - start < Duration::from_secs(10) {
            assert!(!pace.ready(now));
            now = pace.ready_at();
            assert!(pace.ready(now));
            pace.take(now);
            passed += 1;
        }
        assert_eq!(passed, 100);
        let rested = now + Duration::from_secs(60);
        let again = (0..100)
            .take_while(|_| {
                pace.ready(rested) && {
                    pace.take(rested);
                    true
                }
            })
            .count();
        assert_eq!(again, 10, "a rest earns one second's worth");
    }
}
