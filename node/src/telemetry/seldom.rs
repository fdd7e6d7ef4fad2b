//! One log line in a while about what may happen many times a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::env::clock;

const EVERY: Duration = Duration::from_secs(10);

/// Lets the first through, and then one every ten seconds at most.
#[derive(Debug, Default)]
pub struct Seldom {
    /// When the last was let through, in nanoseconds of the node's clock; 0: never.
    last: AtomicU64,
}

impl Seldom {
    /// Whether this one is let through.
    pub fn hit(&self) -> bool {
        let now = clock::now().as_nanos().max(1);
        let last = self.last.load(Ordering::Relaxed);
        let due = last == 0 || u128::from(now.saturating_sub(last)) >= EVERY.as_nanos();
        due && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lets_one_through_in_a_while() {
        let seldom = Seldom::default();
        assert!(seldom.hit() && !seldom.hit());
        clock::sleep(EVERY / 2).await;
        assert!(!seldom.hit());
        clock::sleep(EVERY / 2).await;
        assert!(seldom.hit() && !seldom.hit());
    }
}
