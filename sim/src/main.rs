//! The simulator: the production code in virtual time, over a network and disks that misbehave as
//! real ones do, and held against its guarantees.
//!
//! Invariant: a run is a function of its seed. One process makes one run, because parts of the
//! runtime are global to a process.

#[cfg(not(madsim))]
compile_error!("the simulator is built by its alias: `cargo sim run --seed 1`");

mod conformance;
mod dice;
mod disk;
mod net;
mod time;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo sim", about = "Runs the production code in deterministic simulation")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Holds the simulated network, disks and clock to the suite that the real ones pass.
    Conformance,
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Conformance => {
            time::install();
            if conformance::run() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}
