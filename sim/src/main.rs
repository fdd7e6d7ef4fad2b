//! The simulator: the production code in virtual time, over a network and disks that misbehave as
//! real ones do, and held against its guarantees.
//!
//! Invariant: a run is a function of its seed. One process makes one run, because parts of the
//! runtime are global to a process.

#[cfg(not(madsim))]
compile_error!("the simulator is built by its alias: `cargo sim run --seed 1`");

mod alerts;
mod child;
mod conformance;
mod corpus;
mod coverage;
mod dice;
mod disk;
mod evidence;
mod judge;
mod ledger;
mod mutants;
mod nemesis;
mod net;
mod oracle;
mod plan;
mod process;
mod report;
mod run;
mod shrink;
mod slo;
mod spans;
mod summary;
mod sweep;
mod time;
mod trace;
mod workload;
mod world;

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use alerts::scrapes::Keep;
use clap::{Parser, Subcommand};
use madsim::runtime::Runtime;

use oracle::{Kind, Violation};
use plan::Plan;
use run::Outcome;
use summary::Summary;
use trace::Trace;

/// A run makes thousands of small objects for each second that it simulates.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "cargo sim", about = "Runs the production code in deterministic simulation")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One run. Exits with 10 when a promise was broken, 11 when one was not kept in time, 12 when
    /// the trace is not the expected one, 13 when the simulator itself is at fault.
    Run {
        /// Whatever happens in the run follows from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// A scenario by its name, or a plan's file: instead of a plan drawn from the seed.
        #[arg(long)]
        scenario: Option<String>,
        /// Keep records in real sled as well: the simulated disks and it must agree. Bits are not flipped
        /// then, nor old copies put back, and two such runs of a seed may differ.
        #[arg(long)]
        sled: bool,
        /// Where to write what happened, as JSON lines.
        #[arg(long)]
        trace: Option<PathBuf>,
        /// An earlier run's trace: this one's must be the same bytes.
        #[arg(long, requires = "trace")]
        expect: Option<PathBuf>,
        /// Where to write a page that shows it, with its trace beside it.
        #[arg(long)]
        report: Option<PathBuf>,
        /// Where to write what came of it, as JSON, for whoever adds up many.
        #[arg(long, hide = true)]
        summary: Option<PathBuf>,
        /// Where to write every scrape of every node, as JSON lines.
        #[arg(long, hide = true)]
        scrapes: Option<PathBuf>,
        /// Where to write what Prometheus would have of the objectives, as OpenMetrics text of 2026-10.
        #[arg(long, requires = "scenario")]
        openmetrics: Option<PathBuf>,
        /// Which day of the month that is.
        #[arg(long, hide = true, default_value_t = 0)]
        day: u64,
        /// Runs of the scenario under seeds from this one on, side by side, held against the objectives.
        #[arg(long, requires = "scenario")]
        days: Option<u64>,
        /// How many days at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// A run of the plan in a file, under the seed that it names.
    Replay {
        /// The plan.
        file: PathBuf,
        /// Where to write what happened, as JSON lines.
        #[arg(long)]
        trace: Option<PathBuf>,
        /// Where to write a page that shows it, with its trace beside it.
        #[arg(long)]
        report: Option<PathBuf>,
    },
    /// Runs of scenarios whose scrapes real Prometheus judges by the alerts that we ship: those that
    /// a scenario names must ring in time, all others be silent.
    Alerts {
        /// A scenario by its name, or a plan's file; all that say something of alerts, if none is given.
        #[arg(long)]
        scenario: Option<String>,
        /// Whatever happens in the run follows from it and the scenario.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Finds the smallest plan that still fails as a seed's does.
    Shrink {
        /// The seed that fails.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// A scenario by its name, or a plan's file: instead of a plan drawn from the seed.
        #[arg(long)]
        scenario: Option<String>,
        /// Runs, at most.
        #[arg(long, default_value_t = 300)]
        trials: usize,
        /// Where to write what is left.
        #[arg(long, default_value = "smallest.toml")]
        out: PathBuf,
    },
    /// Many runs, one process each.
    Sweep {
        /// The first seed and the one after the last, `A..B`.
        #[arg(long, value_parser = seeds)]
        seeds: Range<u64>,
        /// Keep records in real sled as well; see `run`.
        #[arg(long)]
        sled: bool,
        /// How many at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Where to write a page that shows it.
        #[arg(long)]
        report: Option<PathBuf>,
    },
    /// Every plan that is kept: the scenarios, and what once found a bug.
    Corpus {
        /// How many at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// The same run in two processes: their traces must be the same bytes.
    Meta {
        /// The run's seed.
        #[arg(long)]
        seed: u64,
    },
    /// Plants known bugs, one at a time, in a copy of the tree: each must be caught.
    Mutants {
        /// Which; all, if none is named.
        names: Vec<String>,
        /// How many runs at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// Holds the simulated network, disks and clock to the suite that the real ones pass.
    Conformance,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.filter(|seeds| !seeds.is_empty()).ok_or_else(|| "seeds are given as A..B, B being the first left out".into())
}

fn main() -> ExitCode {
    let success = match Args::parse().command {
        Command::Run { seed, scenario: Some(scenario), report, openmetrics, days: Some(days), jobs, .. } => {
            slo::days(&scenario, seed, days, jobs, report.as_deref(), openmetrics.as_deref())
        }
        Command::Run { seed, scenario, sled, trace, expect, report, summary, scrapes, openmetrics, day, .. } => {
            let of = scenario.as_ref().map_or(String::new(), |scenario| format!(" --scenario {scenario}"));
            let replay = format!("cargo sim run{of} --seed {seed}{}", if sled { " --sled" } else { "" });
            let openmetrics = openmetrics.map(|path| (path, day));
            let files = Files { replay, trace, expect, report, summary, scrapes, openmetrics };
            let plan = plan_of(seed, scenario.as_deref());
            return run_one(if sled { plan.map(Plan::on_sled) } else { plan }, &files);
        }
        Command::Replay { file, trace, report } => {
            let replay = format!("cargo sim replay {}", file.display());
            let files = Files { replay, trace, report, ..Files::default() };
            return run_one(Plan::read(&file), &files);
        }
        Command::Alerts { scenario, seed } => alerts::judge(scenario.as_deref(), seed),
        Command::Shrink { seed, scenario, trials, out } => plan_of(seed, scenario.as_deref())
            .map_err(io::Error::other)
            .and_then(|plan| shrink::shrink(plan, trials, &out)),
        Command::Sweep { seeds, sled, jobs, report } => sweep::sweep(seeds, sled, jobs, report.as_deref()),
        Command::Corpus { jobs } => corpus::run(jobs),
        Command::Meta { seed } => sweep::meta(seed),
        Command::Mutants { names, jobs } => mutants::run(&names, jobs),
        Command::Conformance => {
            time::install();
            Ok(conformance::run() == 0)
        }
    };
    match success {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn plan_of(seed: u64, scenario: Option<&str>) -> Result<Plan, String> {
    scenario.map_or_else(|| Ok(Plan::draw(seed)), |name| Plan::load(name, seed))
}

/// What a run reads and writes.
#[derive(Default)]
struct Files {
    /// The command that makes it again.
    replay: String,
    trace: Option<PathBuf>,
    expect: Option<PathBuf>,
    report: Option<PathBuf>,
    summary: Option<PathBuf>,
    scrapes: Option<PathBuf>,
    /// And which day it is.
    openmetrics: Option<(PathBuf, u64)>,
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

fn run_one(plan: Result<Plan, String>, files: &Files) -> ExitCode {
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
        "seed {seed}: {seconds:.1} s of virtual time, {faults} faults, {stored} messages stored, {received} received, {lines} events"
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
    let code = outcome.violations.iter().map(|violation| violation.kind).min().map_or(0, Kind::exit_code);
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
        alerts::scrapes::write(&mut io::BufWriter::new(std::fs::File::create(path)?), &outcome.samples)?;
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

/// How this run's trace differs from the expected one.
fn unexpected(path: &Path, expect: &Path) -> Option<Violation> {
    let (kind, text) = match trace::difference(expect, path) {
        Ok(None) => return None,
        Ok(Some((line, was, is))) => {
            (Kind::Determinism, format!("the trace differs from line {line}:\n  {was}\n  {is}"))
        }
        Err(error) => (Kind::Harness, format!("the traces cannot be compared: {error}")),
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
        _ if text.contains("all tasks will block forever") => Kind::Liveness,
        at if at.starts_with("sim/") => Kind::Harness,
        _ => Kind::Safety,
    };
    Violation { kind, text, at: None }
}
