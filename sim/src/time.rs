//! Virtual time, and the clock that production code sees.
//!
//! Invariant: timers live here, one entry each, gone when their future is dropped. The runtime below
//! has timers too, but adds one at every poll, never removes any, and sleeps a millisecond at least.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cluster::env::clock::{self, Instant, Sleep, Source};
use madsim::time::TimeHandle;
use tokio::sync::Notify;

/// Wall time at the start of a run: 2026-01-01, in ms since the Unix epoch.
const WALL_START_MS: u64 = 1_767_225_600_000;

/// No such moment.
pub const NEVER: u64 = u64::MAX;

static TIMERS: Mutex<Option<Timers>> = Mutex::new(None);

/// Virtual time since the run began, in nanoseconds; the same for all machines. After the run, when
/// what is left of it is being dropped, it is 0.
pub fn now() -> u64 {
    TimeHandle::try_current().map_or(0, |time| nanos(time.elapsed()))
}

/// In whole nanoseconds.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

/// Ready `duration` from now.
pub async fn sleep(duration: Duration) {
    Timer::at(now().saturating_add(nanos(duration))).await;
}

/// Makes this clock the process's; once.
pub fn install() {
    clock::install(Box::new(Clock));
}

/// Starts the timers of a run; within its runtime, once.
pub fn start() {
    let changed = Arc::new(Notify::new());
    *lock() = Some(Timers { wakers: BTreeMap::new(), next_id: 0, changed: changed.clone() });
    tokio::spawn(drive(changed));
}

/// What production code sees. All machines agree for now; offsets and drift belong here.
struct Clock;

impl Source for Clock {
    fn now(&self) -> Instant {
        Instant::from_nanos(now())
    }

    fn wall_ms(&self) -> u64 {
        WALL_START_MS + now() / 1_000_000
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Box::pin(Timer::at(deadline.as_nanos()))
    }
}

struct Timers {
    wakers: BTreeMap<(u64, u64), Waker>,
    next_id: u64,
    /// An earlier timer than any before.
    changed: Arc<Notify>,
}

fn lock() -> MutexGuard<'static, Option<Timers>> {
    TIMERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes who is due, for as long as the run lasts.
async fn drive(changed: Arc<Notify>) {
    loop {
        let mut due = Vec::new();
        let next = {
            let now = now();
            let mut timers = lock();
            let Some(timers) = timers.as_mut() else { return };
            while let Some(first) = timers.wakers.first_entry().filter(|first| first.key().0 <= now) {
                due.push(first.remove());
            }
            timers.wakers.first_key_value().map(|(&(deadline, _), _)| deadline)
        };
        due.into_iter().for_each(Waker::wake);
        tokio::select! {
            biased;
            () = changed.notified() => {}
            () = until(next) => {}
        }
    }
}

async fn until(deadline: Option<u64>) {
    let Some(deadline) = deadline else { return pending().await };
    let time = TimeHandle::current();
    let at = time.now_instant() + Duration::from_nanos(deadline.saturating_sub(now()));
    // The deadline that `sleep_until` takes is moved to a millisecond ahead; the one of `reset` is not.
    let mut sleep = Box::pin(time.sleep_until(at));
    sleep.as_mut().reset(at);
    sleep.await;
}

/// Ready at a moment of virtual time.
pub struct Timer {
    deadline: u64,
    /// Its entry's number, while it waits.
    id: Option<u64>,
}

impl Timer {
    /// A timer for `deadline`.
    pub fn at(deadline: u64) -> Self {
        Self { deadline, id: None }
    }

    /// When it is ready.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline <= now() {
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        let mut timers = lock();
        let timers = timers.as_mut().expect("the run's timers were started");
        let id = *self.id.get_or_insert_with(|| {
            timers.next_id += 1;
            timers.next_id
        });
        let old = timers.wakers.insert((deadline, id), cx.waker().clone());
        if old.is_none() && timers.wakers.first_key_value().is_some_and(|(&(_, first), _)| first == id) {
            timers.changed.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let waker = lock().as_mut().and_then(|timers| timers.wakers.remove(&(self.deadline, id)));
            drop(waker);
        }
    }
}
