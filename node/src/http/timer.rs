//! hyper's timers, on the node's clock.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cluster::env::clock;

/// Translates between the instants that hyper speaks of and those of the node's clock.
#[derive(Debug, Clone)]
pub struct ClockTimer {
    theirs: Instant,
    ours: clock::Instant,
}

impl ClockTimer {
    /// A timer; every one translates alike.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // A fixed point for the translation; it is never waited for.
    pub fn new() -> Self {
        Self { theirs: Instant::now(), ours: clock::now() }
    }
}

impl hyper::rt::Timer for ClockTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(ClockSleep(Mutex::new(clock::sleep(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let ahead = deadline.saturating_duration_since(self.theirs);
        Box::pin(ClockSleep(Mutex::new(clock::sleep_until(self.ours + ahead))))
    }

    fn now(&self) -> Instant {
        self.theirs + (clock::now() - self.ours)
    }
}

/// hyper wants its sleeps to be `Sync`; nobody ever contends for the lock.
struct ClockSleep(Mutex<clock::Sleep>);

impl hyper::rt::Sleep for ClockSleep {}

impl Future for ClockSleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Timer;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deadlines_are_on_the_nodes_clock() {
        let timer = ClockTimer::new();
        let start = clock::now();
        timer.sleep_until(timer.now() + Duration::from_secs(3)).await;
        timer.sleep(Duration::from_secs(4)).await;
        assert_eq!(start.elapsed().as_secs(), 7);
        assert_eq!((timer.now() - timer.theirs).as_secs(), 7);
    }
}
