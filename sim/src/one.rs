//! One run, as the command line asks for it: its files, its last words, and the code with which its process ends.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use madsim::runtime::Runtime;

use crate::alerts::scrapes::{self, Keep};
use crate::oracle::{Violation, ViolationKind};
use crate::plan::Plan;
use crate::run::{self, Outcome};
use crate::summary::Summary;
use crate::trace::{self, Trace};
use crate::{child, disk, report, slo, time, watchdog};

/// What a run reads and writes.
#[derive(Default)]
pub struct Files {
    /// The command that makes it again.
    pub replay: String,
    /// What happened.
    pub trace: Option<PathBuf>,
    /// An earlier run's trace, which this one's must equal.
    pub expect: Option<PathBuf>,
    /// The page.
    pub report: Option<PathBuf>,
    /// What came of it.
    pub summary: Option<PathBuf>,
    /// What every node was scraped.
    pub scrapes: Option<PathBuf>,
    /// What Prometheus would have of the objectives, and which day it is.
    pub openmetrics: Option<(PathBuf, u64)>,
}

impl Files {
    fn keep(&self) -> Keep {
        match (&self.scrapes, &self.openmetrics) {
            (Some(_), _) => Keep::Everything,
            (None, Some(_)) => Keep::Objectives,
            (None, None) => Keep::Nothing,
        }
    }
}

/// Makes the run of a plan. Ends the process with the code of what came of it, unless that cannot be told.
pub fn make(plan: Result<Plan, String>, files: &Files) -> ExitCode {
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("sim: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (seed, sled) = (plan.seed, plan.sled);
    let beside = files.report.as_ref().map(|page| page.with_extension("jsonl"));
    let path = files.trace.clone().or(beside);
    let trace = match Trace::new(path.as_deref(), files.report.is_some()) {
        Ok(trace) => trace,
        Err(error) => {
            eprintln!("sim: the trace cannot be written: {error}");
            return ExitCode::FAILURE;
        }
    };
    if sled {
        disk::twin::start();
    }
    watchdog::start(&plan);
    time::install();
    remember_panics();
    let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    let watch = child::Watch::start();
    let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run::run(plan, trace.clone(), files.keep()))));
    if sled {
        disk::twin::clear();
    }
    let lines = trace.finish();
    let mut outcome = ran.unwrap_or_else(|_| Outcome {
        violations: vec![panicked()],
        summary: Summary { seed, ..Summary::default() },
        latencies: Vec::new(),
        samples: Vec::new(),
    });
    let unlike = path.as_deref().zip(files.expect.as_deref()).and_then(|(path, expect)| unexpected(path, expect));
    outcome.violations.extend(unlike);
    let Summary { took, stored, received, faults, .. } = &outcome.summary;
    let (seconds, faults) = (*took as f64 / 1e9, faults.values().sum::<u64>());
    println!(
        "seed {seed}: {seconds:.1} s of virtual time, {faults} faults, {stored} messages stored, {received} received, \
         {lines} events"
    );
    for violation in &outcome.violations {
        println!("{violation}");
    }
    let (cpu, real) = (child::cpu_time().as_secs_f64(), watch.elapsed().as_secs_f64());
    println!("{:.0} virtual seconds per second of CPU, {:.0} per second of real time", seconds / cpu, seconds / real);
    if let Err(error) = write_down(&mut outcome, files, &trace) {
        eprintln!("sim: {error}");
        return ExitCode::FAILURE;
    }
    // The world is not taken down: nobody is left to see how it would end.
    let code = outcome.violations.iter().map(|violation| violation.kind).min().map_or(0, ViolationKind::exit_code);
    std::process::exit(code.into());
}

/// Writes the page and the summary, where they are wanted.
fn write_down(outcome: &mut Outcome, files: &Files, trace: &Trace) -> io::Result<()> {
    let said = |violation: &Violation| (format!("{:?}", violation.kind), violation.text.clone());
    outcome.summary.violations = outcome.violations.iter().map(said).collect();
    if let Some(path) = &files.summary {
        std::fs::write(path, serde_json::to_vec(&outcome.summary)?)?;
    }
    if let Some(path) = &files.scrapes {
        scrapes::write(&mut io::BufWriter::new(std::fs::File::create(path)?), &outcome.samples)?;
    }
    if let Some((path, day)) = &files.openmetrics {
        slo::openmetrics::write(path, &outcome.samples, slo::openmetrics::day_s(*day))?;
    }
    if let Some(path) = &files.report {
        let page = report::page(&report::Report {
            replay: &files.replay,
            events: &trace.recorded(),
            violations: &outcome.violations,
            summary: &outcome.summary,
            latencies: &outcome.latencies,
        });
        std::fs::write(path, page)?;
    }
    Ok(())
}

/// How a run's trace differs from the expected one.
pub fn unexpected(path: &Path, expect: &Path) -> Option<Violation> {
    let (kind, text) = match trace::difference(expect, path) {
        Ok(None) => return None,
        Ok(Some((line, was, is))) => {
            (ViolationKind::Determinism, format!("the trace differs from line {line}:\n  {was}\n  {is}"))
        }
        Err(error) => (ViolationKind::Harness, format!("the traces cannot be compared: {error}")),
    };
    Some(Violation { kind, text, at: None })
}

/// Where the last panic was, and what it said.
static PANIC: Mutex<(String, String)> = Mutex::new((String::new(), String::new()));

fn remember_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Ok(mut last) = PANIC.lock() {
            *last = (panic.location().map(ToString::to_string).unwrap_or_default(), panic.to_string());
        }
        print(panic);
    }));
}

/// A panic breaks a promise, unless it is the simulator's own, or says that nothing will ever happen.
fn panicked() -> Violation {
    let (at, text) = PANIC.lock().map(|last| last.clone()).unwrap_or_default();
    let kind = match at.as_str() {
        _ if text.contains("all tasks will block forever") => ViolationKind::Liveness,
        at if at.starts_with("sim/") => ViolationKind::Harness,
        _ => ViolationKind::Safety,
    };
    Violation { kind, text, at: None }
}
