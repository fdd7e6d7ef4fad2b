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
mod meta;
mod mutants;
mod nemesis;
mod net;
mod one;
mod oracle;
mod plan;
mod pool;
mod process;
mod report;
mod run;
mod shrink;
mod slo;
mod span_sink;
mod summary;
mod sweep;
mod time;
mod trace;
mod watchdog;
mod workload;
mod world;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use one::Files;
use oracle::ViolationKind;
use plan::Plan;

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
    /// One run. Exits with 10 when a promise was broken, 11 when one was not kept in time or the run is
    /// not over in time, 12 when the trace is not the expected one, 13 when the simulator itself is at fault.
    Run {
        /// Whatever happens in the run follows from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// A scenario by its name, or a plan's file: instead of a plan drawn from the seed.
        #[arg(long)]
        scenario: Option<String>,
        /// Keep records in real sled as well: the simulated disks and it must agree. Disks are lost and emptied
        /// then, but no bits flipped, no old copies put back and no halves lost; two such runs of a seed may differ.
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
    /// Many runs, one process each. Exits as the worst of them.
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
    /// Every plan that is kept: the scenarios, and what once found a bug. Exits as the worst of them.
    Corpus {
        /// How many at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// The same run in two processes: their traces must be the same bytes. Exits with 12 when they are not.
    Meta {
        /// The run's seed.
        #[arg(long, required_unless_present = "seeds")]
        seed: Option<u64>,
        /// Each of many, the first seed and the one after the last, `A..B`.
        #[arg(long, value_parser = seeds, conflicts_with = "seed")]
        seeds: Option<Range<u64>>,
        /// A scenario by its name, or a plan's file: instead of plans drawn from the seeds.
        #[arg(long)]
        scenario: Option<String>,
        /// How many seeds at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
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
    let code = match Args::parse().command {
        Command::Run { seed, scenario: Some(scenario), report, openmetrics, days: Some(days), jobs, .. } => {
            slo::days(&scenario, seed, days, jobs, report.as_deref(), openmetrics.as_deref()).map(worst)
        }
        Command::Run { seed, scenario, sled, trace, expect, report, summary, scrapes, openmetrics, day, .. } => {
            let of = scenario.as_ref().map_or(String::new(), |scenario| format!(" --scenario {scenario}"));
            let replay = format!("cargo sim run{of} --seed {seed}{}", if sled { " --sled" } else { "" });
            let openmetrics = openmetrics.map(|path| (path, day));
            let files = Files { replay, trace, expect, report, summary, scrapes, openmetrics };
            let plan = plan_of(seed, scenario.as_deref());
            return one::make(if sled { plan.map(Plan::on_sled) } else { plan }, &files);
        }
        Command::Replay { file, trace, report } => {
            let replay = format!("cargo sim replay {}", file.display());
            let files = Files { replay, trace, report, ..Files::default() };
            return one::make(Plan::read(&file), &files);
        }
        Command::Alerts { scenario, seed } => alerts::judge(scenario.as_deref(), seed).map(plain),
        Command::Shrink { seed, scenario, trials, out } => plan_of(seed, scenario.as_deref())
            .map_err(io::Error::other)
            .and_then(|plan| shrink::shrink(plan, trials, &out))
            .map(plain),
        Command::Sweep { seeds, sled, jobs, report } => sweep::sweep(seeds, sled, jobs, report.as_deref()).map(worst),
        Command::Corpus { jobs } => corpus::run(jobs).map(worst),
        Command::Meta { seed, seeds, scenario, jobs } => {
            let seeds = seeds.or_else(|| seed.map(|seed| seed..seed.saturating_add(1))).unwrap_or_default();
            meta::meta(seeds, scenario.as_deref(), jobs).map(worst)
        }
        Command::Mutants { names, jobs } => mutants::run(&names, jobs).map(plain),
        Command::Conformance => {
            time::install();
            Ok(plain(conformance::run() == 0))
        }
    };
    match code {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The code of the most telling kind of failure.
fn worst(kind: Option<ViolationKind>) -> u8 {
    kind.map_or(0, ViolationKind::exit_code)
}

/// The code of what tells no kinds apart.
fn plain(good: bool) -> u8 {
    u8::from(!good)
}

fn plan_of(seed: u64, scenario: Option<&str>) -> Result<Plan, String> {
    scenario.map_or_else(|| Ok(Plan::draw(seed)), |name| Plan::load(name, seed))
}
