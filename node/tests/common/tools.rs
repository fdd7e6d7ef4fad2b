//! Programs that tests use where they are installed.

use std::path::PathBuf;

/// Where a program is; without it, says loudly that a test is skipped.
pub fn installed(program: &str, what: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("\n!! SKIPPED: {what}: {program} is not installed (Debian: prometheus, prometheus-alertmanager)\n");
    }
    found
}
