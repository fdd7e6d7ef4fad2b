//! Virtual time, and the clock that production code sees.
//!
//! Invariant: a timer costs one entry of the runtime beneath, whatever its deadline and however often
//! it is polled, and wakes nobody once its future is dropped. The runtime's own timers add an entry at
//! every poll, wake all the same, and sleep a millisecond at least.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use cluster::env::clock::{self, Instant, Sleep, Source};
use cluster::sync::lock;
use madsim::task::NodeId;
use madsim::time::TimeHandle;

use crate::evidence::{self, Undergone};

/// Wall time at the start of a run: 2026-01-01, in ms since the Unix epoch.
const WALL_START_MS: u64 = 1_767_225_600_000;

const MILLION: u64 = 1_000_000;

/// No such moment.
pub const NEVER: u64 = u64::MAX;

thread_local! {
    /// The virtual time of the run that this thread makes.
    static RUN: RefCell<Option<TimeHandle>> = const { RefCell::new(None) };
    /// The clocks of the processes whose machine does not simply show virtual time.
    static SKEWED: RefCell<BTreeMap<NodeId, MachineClock>> = const { RefCell::new(BTreeMap::new()) };
    /// Whose clock is asked, when it is not that of the process that runs.
    static SEEN_BY: Cell<Option<NodeId>> = const { Cell::new(None) };
}

/// Virtual time since the run began, in nanoseconds; the same for all machines. Before, it is 0.
pub fn now() -> u64 {
    RUN.with_borrow(|run| run.as_ref().map_or(0, |time| nanos(time.elapsed())))
}

/// In whole nanoseconds.
pub fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(duration.subsec_nanos().into())
}

/// Ready `duration` from now.
pub async fn sleep(duration: Duration) {
    Timer::at(now().saturating_add(nanos(duration))).await;
}

/// Makes this clock the process's; once.
pub fn install() {
    clock::install(Box::new(Clock));
}

/// Begins a run's time; within its runtime, before anything asks for it.
pub fn start() {
    RUN.set(Some(TimeHandle::current()));
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
    /// With this origin and drift, and the wall time off by so much.
    pub fn new(origin: u64, drift_ppm: i64, wall_off_ms: i64) -> Self {
        Self { origin, drift_ppm, wall_off_ms: Arc::new(wall_off_ms.into()) }
    }

    /// What the wall clock shows now, ms since the Unix epoch.
    pub fn wall_now_ms(&self) -> u64 {
        self.wall_ms(now())
    }

    /// The wall clock jumps.
    pub fn jump(&self, by_ms: i64) {
        self.wall_off_ms.fetch_add(by_ms, Ordering::Relaxed);
        evidence::note(Undergone::Jump);
    }

    /// Microseconds that it counts in a second.
    fn rate(&self) -> u64 {
        MILLION.saturating_add_signed(self.drift_ppm)
    }

    /// What the monotonic clock shows at a moment of virtual time.
    fn shows(&self, at: u64) -> u64 {
        self.origin.saturating_add(scale(at, self.rate(), MILLION))
    }

    /// The first moment of virtual time at which it shows `time`.
    fn when(&self, time: u64) -> u64 {
        let mut at = scale(time.saturating_sub(self.origin), MILLION, self.rate());
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

/// `time * by / of`, rounded down, in parts that stay small.
fn scale(time: u64, by: u64, of: u64) -> u64 {
    (time / of).saturating_mul(by).saturating_add(time % of * by / of)
}

/// Gives a process its machine's clock.
pub fn set_clock(process: NodeId, clock: MachineClock) {
    SKEWED.with_borrow_mut(|clocks| clocks.insert(process, clock));
}

/// Runs `look` with the clock of another process.
pub fn seen_by<T>(process: NodeId, look: impl FnOnce() -> T) -> T {
    let before = SEEN_BY.replace(Some(process));
    let seen = look();
    SEEN_BY.set(before);
    seen
}

/// Asks the clock of the process that runs, if it has one of its own.
fn of_this_process<T>(ask: impl FnOnce(&MachineClock) -> T) -> Option<T> {
    SKEWED.with_borrow(|clocks| {
        if clocks.is_empty() {
            return None;
        }
        clocks.get(&SEEN_BY.get().unwrap_or_else(madsim::plugin::node)).map(ask)
    })
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

/// Has `waker` called at `deadline`, for good: only what it wakes can take that back.
pub fn wake_at(deadline: u64, waker: &Waker) {
    RUN.with_borrow(|run| {
        let time = run.as_ref().expect("the run's time has begun");
        let at = time.now_instant() + Duration::from_nanos(deadline.saturating_sub(nanos(time.elapsed())));
        // The deadline that `sleep_until` takes is moved to a millisecond ahead; the one of `reset` is not.
        let mut sleep = pin!(time.sleep_until(at));
        sleep.as_mut().reset(at);
        if sleep.poll(&mut Context::from_waker(waker)).is_ready() {
            waker.wake_by_ref();
        }
    });
}

/// Whom a timer wakes; nobody, once it has rung or was dropped.
struct Bell(Mutex<Option<Waker>>);

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        lock(&self.0)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let waker = self.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Ready at a moment of virtual time.
pub struct Timer {
    deadline: u64,
    /// While it waits.
    bell: Option<Arc<Bell>>,
}

impl Timer {
    /// A timer for `deadline`.
    pub fn at(deadline: u64) -> Self {
        Self { deadline, bell: None }
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
        if let Some(bell) = &self.bell {
            match &mut *bell.lock() {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        } else {
            let bell = Arc::new(Bell(Mutex::new(Some(cx.waker().clone()))));
            wake_at(self.deadline, &bell.clone().into());
            self.bell = Some(bell);
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let waker = self.bell.take().and_then(|bell| bell.lock().take());
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use madsim::runtime::Runtime;

    use super::*;

    /// Counts its calls.
    #[derive(Default)]
    struct Calls(AtomicI64);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_timer_calls_whoever_polled_it_last_and_nobody_once_dropped() {
        Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
            start();
            let calls: [Arc<Calls>; 3] = Default::default();
            let poll = |timer: &mut Timer, by: usize| {
                let waker = calls[by].clone().into();
                Pin::new(timer).poll(&mut Context::from_waker(&waker)).is_ready()
            };
            let deadline = now() + 1_000;
            let (mut kept, mut dropped) = (Timer::at(deadline), Timer::at(deadline));
            assert!(!poll(&mut kept, 0) && !poll(&mut kept, 1) && !poll(&mut dropped, 2));
            drop(dropped);
            sleep(Duration::from_micros(5)).await;
            let called: Vec<_> = calls.iter().map(|calls| calls.0.load(Ordering::Relaxed)).collect();
            assert_eq!(called, [0, 1, 0]);
            assert!(poll(&mut kept, 0), "it is due");
        });
    }

    #[test]
    fn a_timer_of_a_drifting_clock_is_due_when_the_clock_shows_its_deadline() {
        for drift_ppm in [-50_000, -37, 0, 1, 20_000] {
            let clock = MachineClock::new(12_345_678_901, drift_ppm, 0);
            for at in [0, 1, 999, 123_456_789, 3_600_000_000_000] {
                let shown = clock.shows(at);
                let due = clock.when(shown);
                assert!(clock.shows(due) >= shown, "{drift_ppm} ppm at {at}: woken before its time");
                assert!(due <= at && (due == 0 || clock.shows(due - 1) < shown), "{drift_ppm} ppm at {at}: late");
            }
        }
    }
}
