//! How long to wait before the next attempt.

use std::time::Duration;

/// Delays between attempts: doubling, up to a limit, each drawn from the upper half so that nodes
/// that failed at once do not meet at once for ever.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// After the first failure at most `first`, after many at most `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The next delay; `random` is uniform in 0..1.
    pub fn next(&mut self, random: f64) -> Duration {
        let full = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + random / 2.0)
    }

    /// The next delay is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_their_limit() {
        let fresh = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut backoff = fresh.clone();
        let delays: Vec<_> = (0..40).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(delays[..7], [20, 40, 80, 160, 320, 640, 1000]);
        assert!(delays[7..].iter().all(|delay| *delay == 1000));
        backoff.reset();
        assert_eq!(backoff.next(0.0).as_millis(), 10);
    }
}
