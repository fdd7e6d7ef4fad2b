//! What a process asks of its system.

use std::io;

/// Resolves when the process is asked to stop; says by what (`SIGTERM`, `SIGINT`).
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn terminated() -> io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        biased;
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}

/// Threads for work that blocks, at most, in each of a node's two runtimes. Each may have a blob open.
pub const BLOCKING_THREADS: usize = 64;

/// File handles that a node keeps for itself, so that no number of clients can keep it from writing
/// what it has promised: for blobs, one in each blocking thread; for the peer port, one for each
/// stranger in a handshake or asking to join (128 and 64); the rest for links, the log and the like.
pub const RESERVED_FILES: u64 = 2 * BLOCKING_THREADS as u64 + 128 + 64 + 64;

/// Raises this process's limit of open files to the hard limit, if the system lets it; each
/// connection needs one. Returns the limit now in force.
///
/// # Errors
/// When the system does not tell the limit.
pub fn raise_file_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the call to fill in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: `raised` is a valid rlimit, its soft limit within the hard one.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0;
    Ok(if done { raised.rlim_cur } else { limit.rlim_cur })
}
