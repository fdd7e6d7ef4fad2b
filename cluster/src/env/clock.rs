//! Time, as one node sees it.
//!
//! openraft's runtime trait has no instance to carry a clock in, so the source is installed once
//! per process; the simulator's source answers by the simulated node that asks. Every timer of the
//! project, openraft's and hyper's included, comes from here.

use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

/// A point of this node's monotonic time, in nanoseconds since an arbitrary origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// From nanoseconds since the source's origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the source's origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since this instant; zero if it lies ahead.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        now() - self
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(by)))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, by: Duration) {
        *self = *self - by;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A future that is ready at its deadline.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where time comes from.
pub trait Source: Send + Sync + 'static {
    /// Monotonic time.
    fn now(&self) -> Instant;
    /// Milliseconds since the Unix epoch; may jump. For people and tokens, never for order.
    fn wall_ms(&self) -> u64;
    /// Ready at `deadline`.
    fn sleep_until(&self, deadline: Instant) -> Sleep;
}

static SOURCE: OnceLock<Box<dyn Source>> = OnceLock::new();

/// Replaces the system's clock for this process.
///
/// # Panics
/// When a clock was installed or used before.
pub fn install(source: Box<dyn Source>) {
    assert!(SOURCE.set(source).is_ok(), "the clock is already in use");
}

fn source() -> &'static dyn Source {
    SOURCE.get_or_init(|| Box::new(System::new())).as_ref()
}

/// This node's monotonic time.
#[must_use]
pub fn now() -> Instant {
    source().now()
}

/// This node's wall clock, in milliseconds since the Unix epoch.
#[must_use]
pub fn wall_ms() -> u64 {
    source().wall_ms()
}

/// Ready at `deadline`.
#[must_use]
pub fn sleep_until(deadline: Instant) -> Sleep {
    source().sleep_until(deadline)
}

/// Ready after `duration`.
#[must_use]
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// The deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has passed")
    }
}

impl std::error::Error for Elapsed {}

/// A future with a deadline; see [`timeout_at`].
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        self.sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    }
}

/// The future's output, unless `deadline` comes first. The future is polled first.
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout { future: Box::pin(future), sleep: sleep_until(deadline) }
}

/// The future's output, unless `duration` passes first.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    timeout_at(now() + duration, future)
}

/// Ticks at a fixed period; a late tick delays the following ones instead of bunching them.
pub struct Interval {
    period: Duration,
    next: Instant,
}

/// An [`Interval`] whose first tick is one period ahead.
#[must_use]
pub fn interval(period: Duration) -> Interval {
    Interval { period, next: now() + period }
}

impl Interval {
    /// Ready at the next tick. Cancel-safe.
    pub async fn tick(&mut self) {
        sleep_until(self.next).await;
        self.next = now() + self.period;
    }
}

/// The system's clock, through the runtime's timers.
struct System {
    origin: tokio::time::Instant,
}

impl System {
    #[allow(clippy::disallowed_methods)] // The one place where the system's clock is read.
    fn new() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }
}

#[allow(clippy::disallowed_methods)] // The one place where the system's clock is read.
impl Source for System {
    fn now(&self) -> Instant {
        Instant(nanos(tokio::time::Instant::now().saturating_duration_since(self.origin)))
    }

    fn wall_ms(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Box::pin(tokio::time::sleep_until(self.origin + Duration::from_nanos(deadline.0)))
    }
}
