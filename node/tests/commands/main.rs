//! The commands as a user runs them: what they print, where, and with which exit code.

#[path = "../common/mod.rs"]
mod common;

mod configuration;
mod drills;
mod errors;
mod local_cluster;
mod running;
mod slo_report;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use cluster::env::clock;
use tokio::process::Command;

use common::PATIENCE;

/// What a command said, and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// The program with these arguments, in an environment that says nothing about it.
fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_im-gateway"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("IMGW_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a command to its end.
async fn run(command: &mut Command) -> Said {
    let shown = format!("{:?}", command.as_std());
    let output = clock::timeout(PATIENCE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{shown} does not end")).expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("commands write UTF-8");
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Runs a command in `dir` that must fail with `code` and exactly one line on stderr, which holds `words`.
async fn fails(command: &mut Command, dir: &Path, code: i32, words: &str) {
    let said = run(command.current_dir(dir)).await;
    let shown = format!("{:?}: {said:?}", command.as_std());
    assert_eq!(said.code, Some(code), "{shown}");
    assert_eq!(said.out, "", "{shown}");
    // A node that had begun to log says it as JSON, as its other lines.
    assert!(said.err.starts_with("im-gateway: ") || said.err.contains("\"level\":\"FATAL\""), "{shown}");
    assert!(said.err.ends_with('\n'), "{shown}");
    assert_eq!(said.err.lines().count(), 1, "{shown}");
    assert!(said.err.contains(words), "no \"{words}\" in {shown}");
}
