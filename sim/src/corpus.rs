//! The plans that are kept: scenarios that operators know, and what once found a bug.

use std::io;

use crate::child;
use crate::oracle::ViolationKind;
use crate::plan::{Plan, SCENARIOS};
use crate::pool::{self, Progress};

/// The folders of plans.
const FOLDERS: [&str; 2] = [SCENARIOS, concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")];

/// Longer plans that name alerts are there for what monitoring makes of them, and [`crate::alerts`] runs them.
const LONGEST_MS: u64 = 600_000;

/// Runs every plan that is kept, `jobs` at a time, but for those of whole days and those that
/// are left to [`crate::alerts`]; prints each failure with the command that replays it, and a summary.
/// Returns the most telling kind of failure.
///
/// # Errors
/// When files cannot be listed, or processes not be started.
pub fn run(jobs: usize) -> io::Result<Option<ViolationKind>> {
    let mut plans = Vec::new();
    for folder in FOLDERS {
        let kept = Plan::all_in(folder)?.into_iter();
        let ours = |plan: &Plan| plan.rates.is_empty() && (plan.alerts.is_none() || plan.traffic_ms <= LONGEST_MS);
        plans.extend(kept.filter(|(_, plan)| ours(plan)).map(|(path, _)| path));
    }
    let (count, progress) = (plans.len(), Progress::of(plans.len() as u64));
    let codes = pool::each(plans.into_iter(), jobs, |plan| {
        let path = plan.to_string_lossy();
        let done = child::run(&["replay", &path])?;
        if done.code != 0 {
            println!("{path} failed with {}:\n{}  replay: cargo sim replay {path}", done.code, done.said);
        }
        progress.done(done.code != 0);
        Ok(done.code)
    })?;
    let failed = codes.iter().filter(|code| **code != 0).count();
    println!("{count} plans, {failed} failed");
    Ok(child::worst(codes))
}
