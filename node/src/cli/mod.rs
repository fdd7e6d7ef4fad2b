//! The commands: what they are called, what they take, and where each is carried out.

mod admin;
mod args;
mod bench;
mod chat;
mod dial;
mod drill;
mod failure;
mod http;
mod log;
mod process;
mod serve;
mod signals;
mod slo;
mod token;
mod trace;
mod up;

use clap::Parser;

use args::{Args, Command};
pub use failure::Failure;

/// Reads the command line and carries it out.
///
/// # Errors
/// What went wrong, ready for the user.
pub fn run() -> Result<(), Failure> {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return failure::from_clap(&error),
    };
    match args.command {
        None => serve::run_alone(),
        Some(Command::Up(args)) => up::run(&args),
        Some(Command::Token(args)) => token::run(&args),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Drill(args)) => drill::run(&args),
        Some(Command::Slo(command)) => slo::run(&command),
        Some(Command::Chat(args)) => chat::run(&args),
        Some(Command::Status(args)) => admin::status(&args),
        Some(Command::Trace(args)) => trace::run(&args),
        Some(Command::Breaker(command)) => admin::breaker(&command),
        Some(Command::Drain(args)) => admin::drain(&args),
        Some(Command::LogLevel(args)) => admin::log_level(&args),
        Some(Command::Member(command)) => admin::member(&command),
        Some(Command::Revoke(args)) => admin::revoke(&args),
        Some(Command::Leader(command)) => admin::leader(&command),
    }
}
