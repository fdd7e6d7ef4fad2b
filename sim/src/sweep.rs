//! Many runs, one process each.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io, thread};

use crate::child::{self, Done, scratch};

/// Runs `seeds`, `jobs` at a time; prints each failure with the command that replays it, and a
/// summary. Returns whether all were clean.
///
/// # Errors
/// When processes cannot be started.
pub fn sweep(seeds: Range<u64>, jobs: usize) -> io::Result<bool> {
    let next = AtomicU64::new(seeds.start);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(|| work(&next, seeds.end, &done))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    let done = done.into_inner().expect("a worker does not panic");
    let failed = done.iter().filter(|done| done.code != 0).count();
    println!("{} seeds, {failed} failed", done.len());
    Ok(failed == 0)
}

fn work(next: &AtomicU64, end: u64, done: &Mutex<Vec<Done>>) -> io::Result<()> {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return Ok(());
        }
        let run = one(seed, &[])?;
        if run.code != 0 {
            println!(
                "seed {seed} failed with {}:\n{}  replay: cargo sim run --seed {seed}",
                run.code,
                indent(&run.said)
            );
        }
        done.lock().expect("a worker does not panic").push(run);
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
