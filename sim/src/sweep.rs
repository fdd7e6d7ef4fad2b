//! Many runs, one process each.

use std::ops::Range;
use std::path::Path;
use std::{fs, io};

use crate::child::{self, Done, indent};
use crate::coverage::POINTS;
use crate::nemesis::FaultKind;
use crate::oracle::{STALE_P99_NS, ViolationKind};
use crate::pool::{self, Progress};
use crate::report;
use crate::slo::Histogram;
use crate::summary::Summary;

/// A sweep of so many seeds must have met every rare thing.
const MEETS_ALL: usize = 200;
/// A percentile of fewer deaths says nothing.
const ENOUGH_DEATHS: u64 = 100;

/// What came of a run.
pub struct Outcome {
    /// Its exit code.
    pub code: i32,
    /// What it said.
    pub summary: Option<Summary>,
    /// Its seed.
    pub seed: u64,
    /// Real time that it took, in ms.
    pub wall_ms: u64,
}

/// Runs `seeds`, on real `sled` too if so, `jobs` at a time; prints each failure with the command that replays it, and
/// a summary; writes a page where `report` says. Returns the most telling kind of failure: of the runs, of a promise
/// that is made for all of them together, or of rare things never met.
///
/// # Errors
/// When processes cannot be started, or the page not be written.
pub fn sweep(seeds: Range<u64>, sled: bool, jobs: usize, report: Option<&Path>) -> io::Result<Option<ViolationKind>> {
    let watch = child::Watch::start();
    let args = |seed: u64| {
        let mut args = vec!["run".to_owned(), "--seed".into(), seed.to_string()];
        args.extend(sled.then(|| "--sled".into()));
        args
    };
    let replay = |seed: u64| format!("cargo sim {}", args(seed).join(" "));
    let done = each(seeds.clone(), jobs, &args, &replay)?;
    let failed = done.iter().filter(|seed| seed.code != 0).count();
    let seconds = watch.elapsed().as_secs_f64();
    println!("{} seeds, {failed} failed, {seconds:.0} s", done.len());
    let unmet = unmet(&done);
    for point in &unmet {
        println!("never met: {point}");
    }
    let broken = (!stale(&done)).then_some(ViolationKind::Safety);
    let vacuous = (done.len() >= MEETS_ALL && !unmet.is_empty()).then_some(ViolationKind::Harness);
    if let Some(path) = report {
        let title = format!("Simulated seeds {} to {}", seeds.start, seeds.end - 1);
        fs::write(path, report::sweep_page(&title, &done))?;
    }
    let runs = child::worst(done.iter().map(|seed| seed.code));
    Ok([runs, broken, vacuous].into_iter().flatten().min())
}

/// Says how long lone crashes were unknown; whether that is as promised, as far as there are enough.
fn stale(done: &[Outcome]) -> bool {
    let mut all = Histogram::default();
    done.iter().filter_map(|seed| seed.summary.as_ref()).for_each(|summary| all.merge(&summary.stale));
    let Some(p99) = all.quantile(0.99) else { return true };
    let (count, ms, kept) = (all.count(), p99 / 1_000_000, p99 <= STALE_P99_NS || all.count() < ENOUGH_DEATHS);
    println!(
        "{count} lone crashes of nodes were unknown for up to {ms} ms (P99){}",
        if kept { "" } else { ": G5 is broken" }
    );
    kept
}

/// Rare things that no run met, and faults that none played.
fn unmet(done: &[Outcome]) -> Vec<String> {
    let summaries = || done.iter().filter_map(|seed| seed.summary.as_ref());
    let points = POINTS.into_iter().filter(|point| !summaries().any(|of| of.coverage.contains_key(*point)));
    let kinds = FaultKind::ALL
        .into_iter()
        .map(FaultKind::name)
        .filter(|kind| !summaries().any(|of| of.faults.contains_key(kind)));
    points.map(str::to_owned).chain(kinds.map(|kind| format!("the fault {kind}"))).collect()
}

/// Runs a process for each number; prints failures with the command that replays them. In the order
/// of the numbers.
///
/// # Errors
/// When processes cannot be started.
pub fn each(
    numbers: Range<u64>,
    jobs: usize,
    args: &(dyn Fn(u64) -> Vec<String> + Sync),
    replay: &(dyn Fn(u64) -> String + Sync),
) -> io::Result<Vec<Outcome>> {
    let progress = Progress::of(numbers.end - numbers.start);
    let mut done = pool::each(numbers, jobs, |seed| {
        let began = progress.elapsed();
        let (Done { code, said }, summary) = child::run_summarized(args(seed))?;
        let wall_ms = u64::try_from((progress.elapsed() - began).as_millis()).unwrap_or(u64::MAX);
        if code != 0 {
            println!("seed {seed} failed with {code}:\n{}  replay: {}", indent(&said), replay(seed));
        }
        progress.done(code != 0);
        Ok(Outcome { code, summary, seed, wall_ms })
    })?;
    done.sort_by_key(|seed| seed.seed);
    Ok(done)
}
