//! What [`crate::env::clock`] promises, whatever its source.

use std::future::{pending, ready};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Case, cases};
use crate::env::clock::{self, Elapsed};

const STEP: Duration = Duration::from_millis(20);
/// 2020-01-01, in ms since the Unix epoch.
const RECENT_MS: u64 = 1_577_836_800_000;

/// All cases. The clock is the process's: they need no world.
#[must_use]
pub fn cases() -> Vec<Case<()>> {
    cases![
        time_does_not_go_back,
        a_sleep_lasts_at_least_as_long_as_asked,
        a_deadline_in_the_past_is_ready,
        sleeps_end_in_the_order_of_their_deadlines,
        sleeps_can_be_dropped,
        a_timeout_polls_its_future_first,
        a_timeout_ends_what_takes_too_long,
        an_interval_ticks_by_its_period,
        the_wall_clock_is_a_wall_clock,
    ]
}

async fn time_does_not_go_back((): &()) {
    let mut last = clock::now();
    for _ in 0..1000 {
        let now = clock::now();
        assert!(now >= last);
        last = now;
        tokio::task::yield_now().await;
    }
}

async fn a_sleep_lasts_at_least_as_long_as_asked((): &()) {
    for duration in [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(1500), STEP] {
        let start = clock::now();
        clock::sleep(duration).await;
        assert!(start.elapsed() >= duration, "{:?} of {duration:?}", start.elapsed());
    }
}

async fn a_deadline_in_the_past_is_ready((): &()) {
    clock::sleep(STEP).await;
    let past = clock::now() - Duration::from_millis(1);
    clock::sleep_until(past).await;
    clock::sleep_until(clock::Instant::from_nanos(0)).await;
    assert_eq!(clock::timeout_at(past, pending::<()>()).await, Err(Elapsed));
}

async fn sleeps_end_in_the_order_of_their_deadlines((): &()) {
    let ended = Arc::new(Mutex::new(Vec::new()));
    let start = clock::now();
    let tasks: Vec<_> = [3_u32, 1, 4, 2, 5]
        .into_iter()
        .map(|n| {
            let ended = ended.clone();
            tokio::spawn(async move {
                clock::sleep_until(start + STEP * n).await;
                ended.lock().unwrap().push(n);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*ended.lock().unwrap(), [1, 2, 3, 4, 5]);
    assert!(start.elapsed() >= STEP * 5);
}

async fn sleeps_can_be_dropped((): &()) {
    for _ in 0..1000 {
        let hour = clock::sleep(Duration::from_secs(3600));
        assert_eq!(clock::timeout(Duration::ZERO, hour).await, Err(Elapsed));
    }
}

async fn a_timeout_polls_its_future_first((): &()) {
    assert_eq!(clock::timeout(Duration::ZERO, ready(1)).await, Ok(1));
    assert_eq!(clock::timeout_at(clock::Instant::from_nanos(0), ready(2)).await, Ok(2));
    let soon = async {
        clock::sleep(STEP).await;
        3
    };
    assert_eq!(clock::timeout(Duration::from_secs(600), soon).await, Ok(3));
}

async fn a_timeout_ends_what_takes_too_long((): &()) {
    let start = clock::now();
    assert_eq!(clock::timeout(STEP, pending::<()>()).await, Err(Elapsed));
    assert!(start.elapsed() >= STEP);
}

async fn an_interval_ticks_by_its_period((): &()) {
    let start = clock::now();
    let mut interval = clock::interval(STEP);
    for n in 1..=3 {
        interval.tick().await;
        assert!(start.elapsed() >= STEP * n);
    }
    // Late by several periods: one tick at once, and the next a whole period later.
    clock::sleep(STEP * 4).await;
    interval.tick().await;
    let late = clock::now();
    interval.tick().await;
    assert!(late.elapsed() >= STEP - Duration::from_millis(1), "bunched after {:?}", late.elapsed());
}

async fn the_wall_clock_is_a_wall_clock((): &()) {
    let start = clock::wall_ms();
    assert!(start > RECENT_MS, "{start}");
    clock::sleep(STEP * 2).await;
    assert!(clock::wall_ms() > start);
}
