//! Faults on request, for drills: deliveries that are late, sends that fail.
//!
//! Invariant: they are faults of the service as clients may meet them anyway, so every guarantee holds: what is
//! late is as true as what is not, and what fails is refused by the log, in its turn and for good.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::id::MessageId;

/// What one node's sessions are to do wrong; nothing at first.
#[derive(Debug, Default)]
pub struct TestHooks {
    delay_ms: AtomicU64,
    /// Of all numbers of 64 bits, those below it stand for sends that fail.
    failing: AtomicU64,
}

impl TestHooks {
    /// The longest delay of deliveries.
    pub const MAX_DELAY: Duration = Duration::from_secs(60);

    /// Holds each delivery back for so long; for [`Self::MAX_DELAY`] at most.
    pub fn set_delay(&self, delay: Duration) {
        let ms = u64::try_from(delay.min(Self::MAX_DELAY).as_millis()).expect("it is less than a minute");
        self.delay_ms.store(ms, Ordering::Relaxed);
    }

    /// Makes this share of direct sends fail, from 0 to 1.
    pub fn set_failure_rate(&self, share: f64) {
        // A float that is too large for it becomes the largest number.
        self.failing.store((share * 2.0_f64.powi(64)) as u64, Ordering::Relaxed);
    }

    /// How long a delivery is held back now.
    pub(super) fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))
    }

    /// Whether a message is one that fails now. Its id, a hash, decides: a repeat meets the same fate.
    pub(super) fn fails(&self, mid: &MessageId) -> bool {
        let [a, b, c, d, e, f, g, h, ..] = mid.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) < self.failing.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use cluster::id::{DeviceId, UserId};

    use super::*;

    #[test]
    fn the_share_is_what_was_asked_for() {
        let (alice, device) = (UserId::new("alice").unwrap(), DeviceId::new("a1").unwrap());
        let mid = |n: u32| MessageId::direct(&alice, &device, &alice, &n.to_string(), b"1");
        let hooks = TestHooks::default();
        let failing = |share| {
            hooks.set_failure_rate(share);
            (0..10_000).filter(|n| hooks.fails(&mid(*n))).count()
        };
        assert_eq!((failing(0.0), failing(1.0)), (0, 10_000));
        assert!((150..250).contains(&failing(0.02)), "{}", failing(0.02));
        assert_eq!(failing(0.02), failing(0.02), "a repeat meets the same fate");
    }
}
