//! Finds the smallest plan that still fails in the same way: delta debugging over plans.
//!
//! Invariant: every plan that is kept was run, and failed as the first one did. A trial is a process.

use std::path::Path;
use std::{fs, io};

use crate::child;
use crate::nemesis::FaultKind;
use crate::plan::{Fault, Plan, Target};

/// How a run failed: its exit code, and what was broken, numbers and names left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    code: i32,
    what: String,
}

/// A shrinking under way.
struct Shrink {
    best: Plan,
    wanted: Failure,
    trials: usize,
    most: usize,
}

/// Shrinks `plan` in at most `trials` runs, writes what is left to `out`, and says how to replay it.
/// Returns whether the plan failed at all.
///
/// # Errors
/// When processes cannot be started, or files cannot be written.
pub fn shrink(plan: Plan, trials: usize, out: &Path) -> io::Result<bool> {
    let Some(wanted) = failure(&plan)? else {
        println!("seed {} does not fail: there is nothing to shrink", plan.seed);
        return Ok(false);
    };
    println!("shrinking {} faults that end with {}: {}", plan.faults.len(), wanted.code, wanted.what);
    let mut shrink = Shrink { best: plan, wanted, trials: 0, most: trials };
    shrink.run()?;
    fs::write(out, shrink.best.to_toml())?;
    println!("{}", shrink.best.to_toml());
    println!(
        "{} faults are left after {} trials: cargo sim replay {}",
        shrink.best.faults.len(),
        shrink.trials,
        out.display()
    );
    Ok(true)
}

/// How a plan's run fails, if it does.
fn failure(plan: &Plan) -> io::Result<Option<Failure>> {
    let path = child::scratch("plan.toml");
    fs::write(&path, plan.to_toml())?;
    let done = child::run(&["replay", &path.to_string_lossy()])?;
    fs::remove_file(&path)?;
    Ok((done.code != 0).then(|| Failure { code: done.code, what: essence(&done.said) }))
}

/// What the first violation is about, such as `Safety: G1`, or where a panic was.
fn essence(said: &str) -> String {
    let is_violation = |line: &&str| ["Safety: ", "Liveness: ", "Harness: "].iter().any(|kind| line.starts_with(kind));
    let Some(line) = said.lines().find(is_violation) else { return String::new() };
    let words =
        line.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit() && !word.starts_with('G')));
    words.take(if line.contains("panicked") { 4 } else { 2 }).collect::<Vec<_>>().join(" ")
}

impl Shrink {
    fn run(&mut self) -> io::Result<()> {
        loop {
            let before = self.best.clone();
            self.fewer_faults()?;
            self.simpler()?;
            self.shorter()?;
            if self.best == before || self.trials >= self.most {
                return Ok(());
            }
        }
    }

    /// Whether `plan` fails as the first one did; then it is the best so far.
    fn keeps_failing(&mut self, plan: Plan) -> io::Result<bool> {
        if plan == self.best || self.trials >= self.most {
            return Ok(false);
        }
        self.trials += 1;
        let same = failure(&plan)?.as_ref() == Some(&self.wanted);
        if same {
            println!("trial {}: {} faults, {} ms of traffic", self.trials, plan.faults.len(), plan.traffic_ms);
            self.best = plan;
        }
        Ok(same)
    }

    /// Leaves out ever smaller parts of the faults.
    fn fewer_faults(&mut self) -> io::Result<()> {
        let mut part = self.best.faults.len();
        while part > 0 {
            let mut at = 0;
            while at < self.best.faults.len() {
                let mut plan = self.best.clone();
                plan.faults.drain(at..(at + part).min(plan.faults.len()));
                if !self.keeps_failing(plan)? {
                    at += part;
                }
            }
            part /= 2;
        }
        Ok(())
    }

    /// Fewer nodes and clients, and usual settings.
    fn simpler(&mut self) -> io::Result<()> {
        let usual = Plan::default();
        let changes: [fn(&mut Plan, &Plan); 11] = [
            |plan, usual| {
                let added = |fault: &Fault| fault.kind == FaultKind::AddNode;
                if !plan.faults.iter().any(|fault| added(fault) || matches!(fault.target, Target::Node(n) if n >= 3)) {
                    (plan.nodes, plan.voters) = (usual.nodes, usual.voters);
                }
            },
            |plan, usual| plan.tiny = usual.tiny,
            |plan, usual| plan.ping_ms = usual.ping_ms,
            |plan, usual| plan.admit_per_s = usual.admit_per_s,
            |plan, usual| plan.clock_drift_ppm = usual.clock_drift_ppm,
            |plan, usual| plan.clock_offset_ms = usual.clock_offset_ms,
            |plan, usual| plan.checkpoint_entries = usual.checkpoint_entries,
            |plan, usual| plan.kept_entries = usual.kept_entries,
            |plan, usual| plan.kept_bytes = usual.kept_bytes,
            |plan, _| plan.users = 2,
            |plan, _| plan.pause_ms = 1_000,
        ];
        for change in changes {
            let mut plan = self.best.clone();
            change(&mut plan, &usual);
            self.keeps_failing(plan)?;
        }
        Ok(())
    }

    /// Shorter traffic, and shorter, weaker and earlier faults.
    fn shorter(&mut self) -> io::Result<()> {
        loop {
            let mut plan = self.best.clone();
            plan.traffic_ms /= 2;
            if plan.traffic_ms < 1_000 || !self.keeps_failing(plan)? {
                break;
            }
        }
        let halves: [fn(&mut Fault); 3] =
            [|fault| fault.lasts_ms /= 2, |fault| fault.amount /= 2, |fault| fault.at_ms /= 2];
        for at in 0..self.best.faults.len() {
            for half in halves {
                loop {
                    let mut plan = self.best.clone();
                    half(&mut plan.faults[at]);
                    if !self.keeps_failing(plan)? {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::essence;

    #[test]
    fn the_same_promise_is_the_same_failure() {
        let said = "seed 5: 3.1 s\nSafety: G2: u1/a@3 got u2/a@2#7 twice\nSafety: G3: x\n";
        assert_eq!(essence(said), "Safety: G2:");
        assert_eq!(essence("Safety: G2: u4/a@4 got u0/a@2#9 twice"), essence(said));
        assert_ne!(essence("Safety: G3: u4/a@4 got u0/a@2#9"), essence(said));
        assert_eq!(essence("all is well"), "");
    }
}
