//! The `im-gateway` command.
//!
//! Invariant: every failure ends as one line on stderr that says what is wrong and how to mend it, in JSON where
//! the log is, with exit code 1, or 2 when the command line or the configuration is at fault.

mod cli;
mod config;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's settings. Two arenas: more would each hold back pages of their own, and there are
/// few threads. Freed pages go back to the system after a second, in the background, so that
/// resident memory follows the number of connections down as well as up. One allocation in a MiB is
/// sampled, for `/debug/pprof/heap`.
const ALLOCATOR_SETTINGS: &[u8] =
    b"narenas:2,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,prof:true,lg_prof_sample:20\0";

/// Where jemalloc looks for its settings: a pointer to a C string.
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_CONF: &u8 = &ALLOCATOR_SETTINGS[0];

fn main() -> ExitCode {
    let outcome = cli::run();
    im_gateway::telemetry::logs::finish();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            im_gateway::telemetry::logs::last_word(&failure.to_string());
            failure.exit_code()
        }
    }
}
