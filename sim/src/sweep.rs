//! Many runs, one process each.

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io, thread};

use crate::child::{self, Done, scratch};
use crate::coverage::POINTS;
use crate::nemesis::Kind;
use crate::oracle::STALE_P99_NS;
use crate::report::{self, Seed};
use crate::slo::Histogram;
use crate::summary::Summary;

use cluster::sync::lock;

/// A sweep of so many seeds must have met every rare thing.
const MEETS_ALL: usize = 200;
/// A percentile of fewer deaths says nothing.
const ENOUGH_DEATHS: u64 = 100;
/// How often it says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// Runs `seeds`, on real `sled` too if so, `jobs` at a time; prints each failure with the command that replays it, and a
/// summary; writes a page where `report` says. Returns whether all were clean.
///
/// # Errors
/// When processes cannot be started, or the page not be written.
pub fn sweep(seeds: Range<u64>, sled: bool, jobs: usize, report: Option<&Path>) -> io::Result<bool> {
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
    let stale = stale(&done);
    if let Some(path) = report {
        let title = format!("Simulated seeds {} to {}", seeds.start, seeds.end - 1);
        fs::write(path, report::sweep_page(&title, &done))?;
    }
    Ok(failed == 0 && stale && (done.len() < MEETS_ALL || unmet.is_empty()))
}

/// Says how long lone crashes were unknown; whether that is as promised, as far as there are enough.
fn stale(done: &[Seed]) -> bool {
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
fn unmet(done: &[Seed]) -> Vec<String> {
    let summaries = || done.iter().filter_map(|seed| seed.summary.as_ref());
    let points = POINTS.into_iter().filter(|point| !summaries().any(|of| of.coverage.contains_key(*point)));
    let kinds =
        Kind::ALL.into_iter().map(Kind::name).filter(|kind| !summaries().any(|of| of.faults.contains_key(kind)));
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
) -> io::Result<Vec<Seed>> {
    let next = AtomicU64::new(numbers.start);
    let done = Mutex::new(Progress { all: numbers.end - numbers.start, said: Duration::ZERO, done: Vec::new() });
    let watch = child::Watch::start();
    thread::scope(|scope| {
        let work = || work(&next, numbers.end, &done, &watch, args, replay);
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner).done;
    done.sort_by_key(|seed| seed.seed);
    Ok(done)
}

/// How far it is.
struct Progress {
    all: u64,
    said: Duration,
    done: Vec<Seed>,
}

fn work(
    next: &AtomicU64,
    end: u64,
    progress: &Mutex<Progress>,
    watch: &child::Watch,
    args: &(dyn Fn(u64) -> Vec<String> + Sync),
    replay: &(dyn Fn(u64) -> String + Sync),
) -> io::Result<()> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= end {
            return Ok(());
        }
        let (path, began) = (scratch(&format!("{number}.json")), watch.elapsed());
        let path_text = path.to_string_lossy();
        let mut all = args(number);
        all.extend(["--summary".to_owned(), path_text.into_owned()]);
        let run = child::run(&all.iter().map(String::as_str).collect::<Vec<_>>())?;
        let summary = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Summary>(&bytes).ok());
        // A run that was killed wrote none.
        let _ = fs::remove_file(&path);
        let now = watch.elapsed();
        let wall_ms = u64::try_from((now - began).as_millis()).unwrap_or(u64::MAX);
        if run.code != 0 {
            let (said, code) = (indent(&run.said), run.code);
            println!("seed {number} failed with {code}:\n{said}  replay: {}", replay(number));
        }
        let mut progress = lock(progress);
        progress.done.push(Seed { code: run.code, summary, seed: number, wall_ms });
        progress.say(now);
    }
}

impl Progress {
    /// Says how far it is, now and then: to people who wait.
    fn say(&mut self, now: Duration) {
        let due = now >= self.said + PROGRESS;
        if !due || !io::stderr().is_terminal() {
            return;
        }
        self.said = now;
        let failed = self.done.iter().filter(|seed| seed.code != 0).count();
        let (done, all) = (self.done.len(), self.all);
        let left = now.as_secs_f64() / done as f64 * (all as f64 - done as f64);
        let _ = write!(io::stderr(), "\r{done} of {all} done, {failed} failed, {left:.0} s to go   ");
    }
}

fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |all, line| all + "  " + line + "\n")
}

/// Runs `seed` in a process of its own.
fn one(seed: u64, more: &[&str]) -> io::Result<Done> {
    child::run(&[&["run", "--seed", &seed.to_string()], more].concat())
}

/// Runs `seed` in two processes and compares their traces. Returns whether they are the same bytes.
///
/// # Errors
/// When processes cannot be started, or a trace cannot be read.
pub fn meta(seed: u64) -> io::Result<bool> {
    let (first, second) = (scratch("first.jsonl"), scratch("second.jsonl"));
    let (a, b) = (first.to_string_lossy(), second.to_string_lossy());
    let before = one(seed, &["--trace", &a])?;
    let after = one(seed, &["--trace", &b, "--expect", &a])?;
    for path in [&first, &second] {
        fs::remove_file(path)?;
    }
    let same = before.code == after.code;
    if same {
        println!("seed {seed}: both traces are the same bytes (exit code {})", before.code);
    } else {
        println!("seed {seed}: exit code {}, then {}\n{}", before.code, after.code, indent(&after.said));
    }
    Ok(same)
}
