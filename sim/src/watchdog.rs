//! Ends a run that takes too long in real time: where production code spins, no virtual time passes.
//!
//! Invariant: it lives outside of the run's runtime and knows nothing of it, so a run is the same with it.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use crate::disk;
use crate::oracle::{ViolationKind, liveness};
use crate::plan::Plan;

/// Real time that every run may take. One of a minute of virtual time takes a second or two.
const SHORT: Duration = Duration::from_secs(300);
/// Virtual seconds that one more second of it is given for: a busy machine makes ten times as many of a month.
const PACE: u32 = 40;
/// Real time that no run may exceed, however long its plan.
pub const LONGEST: Duration = Duration::from_secs(3_600);

/// Real time that a run of the plan may take.
fn patience(plan: &Plan) -> Duration {
    LONGEST.min(SHORT + plan.lasts() / PACE)
}

/// Watches over the run of the plan. Before its runtime is entered, which lets nobody start a thread.
#[allow(clippy::disallowed_methods)] // Outside of any run, in real time.
pub fn start(plan: &Plan) {
    let (seed, sled, patience) = (plan.seed, plan.sled, patience(plan));
    thread::spawn(move || watch(seed, sled, patience));
}

#[allow(clippy::disallowed_methods)] // Outside of any run, in real time.
fn watch(seed: u64, sled: bool, patience: Duration) {
    thread::sleep(patience);
    let late = liveness(format!("seed {seed} is not over after {} s of real time: it spins", patience.as_secs()));
    // Nobody may be left to read it.
    let _ = writeln!(io::stderr(), "{late}");
    if sled {
        disk::twin::clear();
    }
    std::process::exit(ViolationKind::Liveness.exit_code().into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_has_more_time_than_a_seed() {
        assert!((0..200).all(|seed| patience(&Plan::draw(seed)) < SHORT + Duration::from_secs(10)));
        let of = |traffic_ms| patience(&Plan { traffic_ms, ..Plan::default() });
        assert_eq!(of(86_400_000), Duration::from_secs(2_460));
        assert_eq!(of(u64::MAX), LONGEST);
    }
}
