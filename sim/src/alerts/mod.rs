//! Whether the alerts that we ship would have rung: the real engine judges them on what a simulated
//! monitoring system has scraped.
//!
//! A scenario says which alerts must ring and within what time of its first fault; all others must
//! stay silent, and everything must be silent again at the end. Prometheus's own rule tester computes
//! the rules, `for:` and all; nothing of it is imitated here.

mod engine;
pub mod scrapes;

use std::collections::BTreeMap;
use std::io::{self, BufReader};
use std::{fs, path::Path};

use engine::{Rang, rang};
use scrapes::STEP_S;

use crate::child;
use crate::plan::{Plan, SCENARIOS};
use crate::summary::Summary;

/// Runs the scenario, or all that say something of alerts, and holds the alerts to what it says;
/// whether they were as it says.
///
/// # Errors
/// A scenario that says nothing of alerts; no `promtool`.
pub fn judge(scenario: Option<&str>, seed: u64) -> io::Result<bool> {
    let scenarios = match scenario {
        Some(scenario) => vec![scenario.to_owned()],
        None => {
            let all = Plan::all_in(SCENARIOS)?.into_iter().filter(|(_, plan)| plan.alerts.is_some());
            all.map(|(path, _)| path.to_string_lossy().into_owned()).collect()
        }
    };
    let mut good = true;
    for scenario in scenarios {
        println!("{scenario}");
        good &= judge_one(&scenario, seed)?;
    }
    Ok(good)
}

fn judge_one(scenario: &str, seed: u64) -> io::Result<bool> {
    let plan = Plan::load(scenario, seed).map_err(io::Error::other)?;
    let Some(expected) = &plan.alerts else {
        return Err(io::Error::other(format!("{scenario} has no [alerts]: say which must ring, or none")));
    };
    let (metrics, summary) = (child::scratch("scrapes.jsonl"), child::scratch("summary.json"));
    let done = child::run(&[
        "run",
        "--scenario",
        scenario,
        "--seed",
        &seed.to_string(),
        "--scrapes",
        &metrics.to_string_lossy(),
        "--summary",
        &summary.to_string_lossy(),
    ])?;
    print!("{}", done.said);
    let judged = if done.code == 0 { judge_run(expected, &metrics, &summary) } else { Ok(false) };
    for file in [metrics, summary] {
        // What is left in a folder for temporary files harms nobody.
        let _ = fs::remove_file(file);
    }
    judged
}

fn judge_run(expected: &BTreeMap<String, Ring>, metrics: &Path, summary: &Path) -> io::Result<bool> {
    let samples = scrapes::read(BufReader::new(fs::File::open(metrics)?))?;
    let summary: Summary = serde_json::from_slice(&fs::read(summary)?)?;
    let first_fault_s = summary.first_fault.map(|at| at as f64 / 1e9);
    let rang = rang(&samples)?;
    let verdicts = verdicts(expected, &rang, first_fault_s, engine::last_s(&samples));
    for (_, line) in &verdicts {
        println!("  {line}");
    }
    if verdicts.is_empty() {
        println!("  no alert rang, as it should be");
    }
    Ok(verdicts.iter().all(|(good, _)| *good))
}

/// When an alert must ring.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Seconds after the first fault began, at most.
    pub within_s: u64,
}

/// For each alert that rang or should have, whether that is as it should be, and the words for it.
fn verdicts(
    expected: &BTreeMap<String, Ring>,
    rang: &BTreeMap<String, Rang>,
    first_fault_s: Option<f64>,
    last_s: f64,
) -> Vec<(bool, String)> {
    let began = first_fault_s.unwrap_or(0.0);
    let silent = expected.iter().filter(|(name, _)| !rang.contains_key(*name)).map(|(name, ring)| {
        (false, format!("{name}: SILENT, and should have rung within {} s of the first fault", ring.within_s))
    });
    let rung = rang.iter().map(|(name, Rang { from_s, until_s })| {
        let after = from_s - began;
        let times = format!("rang {after:.0} s after the first fault, for {:.0} s", until_s - from_s + STEP_S as f64);
        match expected.get(name) {
            None => (false, format!("{name}: {times}, and should have been SILENT")),
            Some(_) if after < 0.0 => (false, format!("{name}: {times}: TOO EARLY")),
            Some(ring) if after > ring.within_s as f64 => {
                (false, format!("{name}: {times}: TOO LATE, {} s were given", ring.within_s))
            }
            Some(_) if *until_s >= last_s => (false, format!("{name}: {times}, and still RINGS at the end")),
            Some(_) => (true, format!("{name}: {times}, as it should")),
        }
    });
    silent.chain(rung).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_be_wrong_is_told() {
        let expected = BTreeMap::from([("Down".to_owned(), Ring { within_s: 120 })]);
        let judge = |name: &str, from_s: f64, until_s: f64| {
            let rang = BTreeMap::from([(name.to_owned(), Rang { from_s, until_s })]);
            let verdicts = verdicts(&expected, &rang, Some(100.0), 900.0);
            (verdicts.iter().all(|(good, _)| *good), verdicts.into_iter().map(|(_, text)| text).collect::<String>())
        };
        assert!(judge("Down", 190.0, 300.0).0);
        for (name, from_s, until_s, word) in [
            ("Down", 230.0, 300.0, "TOO LATE"),
            ("Down", 90.0, 300.0, "TOO EARLY"),
            ("Down", 190.0, 900.0, "RINGS"),
            ("Other", 190.0, 300.0, "SILENT"),
        ] {
            let (good, text) = judge(name, from_s, until_s);
            assert!(!good && text.contains(word), "{text}");
        }
        let nothing = verdicts(&expected, &BTreeMap::new(), Some(100.0), 900.0);
        assert!(matches!(&nothing[..], [(false, text)] if text.contains("SILENT")));
    }
}
