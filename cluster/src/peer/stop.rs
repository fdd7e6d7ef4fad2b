//! Ending tasks. Waiters wake in the order they came, which a simulated run relies on.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// A flag that is set once and can be waited for.
#[derive(Debug, Default)]
pub(super) struct Stop {
    set: AtomicBool,
    notify: Notify,
}

impl Stop {
    /// Sets the flag; later calls do nothing.
    pub(super) fn set(&self) {
        self.set.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    /// Whether the flag is set.
    pub(super) fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    /// Ready once the flag is set. Cancel-safe.
    pub(super) async fn wait(&self) {
        let notified = self.notify.notified();
        tokio::pin!(notified);
        // Registered before the flag is read, or a `set` between the two would be missed.
        notified.as_mut().enable();
        if !self.is_set() {
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn waiting_ends_whether_it_began_before_or_after() {
        let stop = Stop::default();
        let mut early = Box::pin(stop.wait());
        assert!(poll!(&mut early).is_pending());
        stop.set();
        assert!(poll!(&mut early).is_ready());
        assert!(poll!(Box::pin(stop.wait())).is_ready());
    }
}
