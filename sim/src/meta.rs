//! Determinism: two processes that run a seed must leave traces of the same bytes.

use std::ops::Range;
use std::path::Path;
use std::{fs, io};

use crate::child::{self, Done, indent, scratch};
use crate::one;
use crate::oracle::{Violation, ViolationKind};
use crate::pool::{self, Progress};
use crate::summary::Summary;

/// Runs each seed in two processes, `jobs` seeds at a time, drawn plans or the scenario; prints those whose traces
/// differ, and a summary. Returns what is wrong. A seed that fails in the same way twice is as it should be.
///
/// # Errors
/// When processes cannot be started.
pub fn meta(seeds: Range<u64>, scenario: Option<&str>, jobs: usize) -> io::Result<Option<ViolationKind>> {
    let count = seeds.end - seeds.start;
    let progress = Progress::of(count);
    let runs = pool::each(seeds, jobs, |seed| {
        let codes = twice(seed, scenario)?;
        progress.done(codes.is_err());
        if let (1, Ok(code)) = (count, &codes) {
            println!("seed {seed}: both traces are the same bytes (exit code {code})");
        }
        Ok(codes)
    })?;
    if count != 1 {
        let differ = runs.iter().filter(|run| run.is_err()).count();
        let alike = runs.iter().filter(|run| matches!(run, Ok(code) if *code != 0)).count();
        let seconds = progress.elapsed().as_secs_f64();
        println!("{count} seeds twice, {differ} not the same bytes, {alike} failed twice alike, {seconds:.0} s");
    }
    Ok(runs.into_iter().filter_map(Result::err).min())
}

/// Runs the seed twice. Returns the exit code of both runs; or what is wrong, once that is printed.
fn twice(seed: u64, scenario: Option<&str>) -> io::Result<Result<i32, ViolationKind>> {
    let (first, second) = (scratch(&format!("{seed}-first.jsonl")), scratch(&format!("{seed}-second.jsonl")));
    let runs = once(seed, scenario, &first).and_then(|before| Ok((before, once(seed, scenario, &second)?)));
    let compared = runs.map(|(before, after)| {
        let wrong = compare(&before, &after, &first, &second);
        let (before, after) = (before.0.code, after.0);
        wrong.map_or(Ok(before), |wrong| {
            let of = scenario.map_or(String::new(), |scenario| format!(" --scenario {scenario}"));
            let (code, said) = (after.code, indent(&format!("{}{wrong}", after.said)));
            println!("seed {seed}: exit code {before}, then {code}\n{said}  replay: cargo sim meta{of} --seed {seed}");
            Err(wrong.kind)
        })
    });
    for trace in [first, second] {
        // There is none where no process was started.
        let _ = fs::remove_file(trace);
    }
    compared
}

/// A process, and what its run came to, if it ended.
type Run = (Done, Option<Summary>);

fn once(seed: u64, scenario: Option<&str>, trace: &Path) -> io::Result<Run> {
    let mut args = vec!["run".to_owned(), "--seed".into(), seed.to_string()];
    args.extend(["--trace".to_owned(), trace.to_string_lossy().into_owned()]);
    args.extend(scenario.into_iter().flat_map(|scenario| ["--scenario".to_owned(), scenario.to_owned()]));
    child::run_summarized(args)
}

/// What is wrong with two runs of a seed.
fn compare(before: &Run, after: &Run, first: &Path, second: &Path) -> Option<Violation> {
    let codes = [before.0.code, after.0.code];
    if before.1.is_none() || after.1.is_none() {
        let kind = child::worst(codes).unwrap_or(ViolationKind::Harness);
        return Some(Violation { kind, text: "a run did not end, so there is nothing to compare".into(), at: None });
    }
    let differ = || Violation { kind: ViolationKind::Determinism, text: "the exit codes differ".into(), at: None };
    one::unexpected(second, first).or_else(|| (codes[0] != codes[1]).then(differ))
}
