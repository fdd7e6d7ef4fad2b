//! The storm of `tests/raft_storm`, for as long as you like:
//! `cargo run --release -p im-gateway --example raft_storm -- 600 [folder]`.

#[path = "../tests/raft_storm/storm.rs"]
mod storm;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(seconds) = args.next().and_then(|seconds| seconds.parse().ok()) else {
        eprintln!("usage: raft_storm SECONDS [FOLDER]");
        return ExitCode::from(2);
    };
    tracing_subscriber::fmt().with_env_filter("error").init();
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let dir = args.next().map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let length = Duration::from_secs(seconds);
    let figures =
        storm::run(&dir, storm::Storm { length, writers: 256, entry_bytes: 1000, checkpoint_entries: 500 }).await;
    println!("{figures:#?}");
    if figures.ended.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
