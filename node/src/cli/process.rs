//! What concerns this process as a whole: its environment, its runtimes, its limits, its output.

use std::collections::BTreeMap;
use std::io::Write;

use rustix::process::{Pid, Signal};

use super::failure::{Failure, failed};

/// This process's environment. Variables that are not UTF-8 cannot be ours and are left out.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Prints one line. A reader that went away (`| head`) ends us quietly, as it does other commands.
///
/// # Errors
/// When standard output cannot be written.
pub fn print(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => failed(format!("cannot write to standard output: {error}")),
        Ok(()) => Ok(()),
    }
}

/// How this program was called, for commands that people copy: with `cargo run` it is in no search path.
pub fn program() -> String {
    std::env::args().next().map_or_else(|| "im-gateway".to_owned(), |name| quote(&name))
}

/// For a shell to read `word` as one word.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A runtime of `threads` workers named `name`.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime(name: &str, threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(im_gateway::env::BLOCKING_THREADS)
        .thread_name(format!("imgw-{name}"))
        .enable_all()
        .build()
        .or_else(|error| failed(format!("cannot start the {name} threads: {error}")))
}

/// A runtime on the calling thread, for commands that are clients.
///
/// # Errors
/// When the system refuses.
pub fn local_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_else(|error| failed(format!("cannot start: {error}")))
}

/// Ties this process to its parent: it is killed when `parent` ends, however that ends.
///
/// # Errors
/// When the parent has ended already, or the system refuses.
pub fn die_with(parent: i32) -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .or_else(|error| failed(format!("cannot tie this process to its parent: {error}")))?;
    // Looked at after the call: a parent that ended before it would not be noticed otherwise.
    if rustix::process::getppid() == Pid::from_raw(parent) { Ok(()) } else { failed("the parent process has ended") }
}
