//! Virtual time, and the clock that production code sees.
//!
//! Invariant: timers live here, one entry each, gone when their future is dropped. The runtime below
//! has timers too, but adds one at every poll, never removes any, and sleeps a millisecond at least.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cluster::env::clock::{self, Instant, Sleep, Source};
use madsim::task::NodeId;
use madsim::time::TimeHandle;
use tokio::sync::Notify;

/// Wall time at the start of a run: 2026-01-01, in ms since the Unix epoch.
const WALL_START_MS: u64 = 1_767_225_600_000;

/// No such moment.
pub const NEVER: u64 = u64::MAX;

static TIMERS: Mutex<Option<Timers>> = Mutex::new(None);

/// The clocks of the processes whose machine does not simply show virtual time.
static SKEWED: Mutex<BTreeMap<NodeId, MachineClock>> = Mutex::new(BTreeMap::new());

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

/// A machine's clocks. The monotonic one has an origin and a rate of its own, for good; the wall
/// clock goes with it, and jumps besides.
#[derive(Debug, Clone)]
pub struct MachineClock {
    /// What the monotonic clock showed when the run began, in nanoseconds.
    origin: u64,
    /// How much faster it goes, in parts per million; negative when it goes slower.
    drift_ppm: i64,
    /// How far the wall clock is off, in milliseconds. Shared by the machine's processes.
    wall_off_ms: Arc<AtomicI64>,
}

impl MachineClock {
    /// With this origin and drift, and the right wall time.
    pub fn new(origin: u64, drift_ppm: i64) -> Self {
        Self { origin, drift_ppm, wall_off_ms: Arc::default() }
    }

    /// The wall clock jumps.
    pub fn jump(&self, by_ms: i64) {
        self.wall_off_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// What the monotonic clock shows at a moment of virtual time.
    fn shows(&self, at: u64) -> u64 {
        self.origin.saturating_add(scale(at, 1_000_000 + self.drift_ppm, 1_000_000))
    }

    /// The first moment of virtual time at which it shows `time`.
    fn when(&self, time: u64) -> u64 {
        let mut at = scale(time.saturating_sub(self.origin), 1_000_000, 1_000_000 + self.drift_ppm);
        while self.shows(at) < time {
            at += 1;
        }
        at
    }

    fn wall_ms(&self, at: u64) -> u64 {
        let passed = (self.shows(at) - self.origin) / 1_000_000;
        (WALL_START_MS + passed).saturating_add_signed(self.wall_off_ms.load(Ordering::Relaxed))
    }
}

/// `time * by / of`, rounded down.
fn scale(time: u64, by: i64, of: i64) -> u64 {
    u64::try_from(i128::from(time) * i128::from(by) / i128::from(of)).unwrap_or(NEVER)
}

/// Gives a process its machine's clock.
pub fn set_clock(process: NodeId, clock: MachineClock) {
    skewed().insert(process, clock);
}

thread_local! {
    /// Whose clock is asked, when it is not that of the process that runs.
    static SEEN_BY: Cell<Option<NodeId>> = const { Cell::new(None) };
}

/// Runs `look` with the clock of another process.
pub fn seen_by<T>(process: NodeId, look: impl FnOnce() -> T) -> T {
    let before = SEEN_BY.replace(Some(process));
    let seen = look();
    SEEN_BY.set(before);
    seen
}

fn skewed() -> MutexGuard<'static, BTreeMap<NodeId, MachineClock>> {
    SKEWED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the clock of the process that runs, if it has one of its own.
fn of_this_process<T>(ask: impl FnOnce(&MachineClock) -> T) -> Option<T> {
    let clocks = skewed();
    if clocks.is_empty() {
        return None;
    }
    clocks.get(&SEEN_BY.get().unwrap_or_else(madsim::plugin::node)).map(ask)
}

/// What production code sees: each process its machine's clock.
struct Clock;

impl Source for Clock {
    fn now(&self) -> Instant {
        let now = now();
        Instant::from_nanos(of_this_process(|clock| clock.shows(now)).unwrap_or(now))
    }

    fn wall_ms(&self) -> u64 {
        let now = now();
        of_this_process(|clock| clock.wall_ms(now)).unwrap_or(WALL_START_MS + now / 1_000_000)
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        let deadline = deadline.as_nanos();
        Box::pin(Timer::at(of_this_process(|clock| clock.when(deadline)).unwrap_or(deadline)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_of_a_drifting_clock_is_due_when_the_clock_shows_its_deadline() {
        for drift_ppm in [-50_000, -37, 0, 1, 20_000] {
            let clock = MachineClock::new(12_345_678_901, drift_ppm);
            for at in [0, 1, 999, 123_456_789, 3_600_000_000_000] {
                let shown = clock.shows(at);
                let due = clock.when(shown);
                assert!(clock.shows(due) >= shown, "{drift_ppm} ppm at {at}: woken before its time");
                assert!(due <= at && (due == 0 || clock.shows(due - 1) < shown), "{drift_ppm} ppm at {at}: late");
            }
        }
    }
}
