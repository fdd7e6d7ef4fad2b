//! The plans that are kept: scenarios that operators know, and what once found a bug.

use std::path::PathBuf;
use std::sync::Mutex;
use std::{io, thread};

use crate::child;
use crate::plan::{Plan, SCENARIOS};

/// The folders of plans.
const FOLDERS: [&str; 2] = [SCENARIOS, concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")];

/// Longer plans that name alerts are there for what monitoring makes of them, and [`crate::alerts`] runs them.
const LONGEST_MS: u64 = 600_000;

/// Runs every plan that is kept, `jobs` at a time, but for those of whole days and those that
/// are left to [`crate::alerts`]; prints each failure with the command that replays it, and a summary.
/// Returns whether all were clean.
///
/// # Errors
/// When files cannot be listed, or processes not be started.
pub fn run(jobs: usize) -> io::Result<bool> {
    let mut plans = Vec::new();
    for folder in FOLDERS {
        let kept = Plan::all_in(folder)?.into_iter();
        let ours = |plan: &Plan| plan.rates.is_empty() && (plan.alerts.is_none() || plan.traffic_ms <= LONGEST_MS);
        plans.extend(kept.filter(|(_, plan)| ours(plan)).map(|(path, _)| path));
    }
    let count = plans.len();
    let (plans, failed) = (Mutex::new(plans), Mutex::new(0));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(|| work(&plans, &failed))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    let failed = failed.into_inner().expect("a worker does not panic");
    println!("{count} plans, {failed} failed");
    Ok(failed == 0)
}

fn work(plans: &Mutex<Vec<PathBuf>>, failed: &Mutex<usize>) -> io::Result<()> {
    loop {
        let Some(plan) = plans.lock().expect("a worker does not panic").pop() else { return Ok(()) };
        let path = plan.to_string_lossy();
        let done = child::run(&["replay", &path])?;
        if done.code != 0 {
            *failed.lock().expect("a worker does not panic") += 1;
            println!("{path} failed with {}:\n{}  replay: cargo sim replay {path}", done.code, done.said);
        }
    }
}
