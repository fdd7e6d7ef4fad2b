//! Raft survives a storm of writes, checkpoints, purges, cuts and elections.

#![cfg(feature = "real")]

mod storm;

use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rafts_survive_a_storm() {
    let dir = tempfile::tempdir().expect("a folder");
    let storm =
        storm::Storm { length: Duration::from_secs(10), writers: 64, entry_bytes: 1000, checkpoint_entries: 200 };
    let figures = storm::run(dir.path(), storm).await;
    println!("{figures:?}");
    assert_eq!(figures.ended, None, "{figures:?}");
    assert!(figures.written > 100 && figures.installed > 0, "{figures:?}");
}
