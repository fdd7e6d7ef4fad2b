//! Keeps the log from outgrowing its bytes.

use std::time::Duration;

use super::{LogStore, Raft};
use crate::env::clock;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(10);

/// Purges what exceeds `kept` bytes of the log, on top of openraft's own bound by number of entries,
/// for as long as Raft runs. Only entries that a checkpoint covers, and that no replica is being sent.
pub async fn keep_log_bounded(raft: Raft, log: LogStore, kept: u64) {
    let mut ticks = clock::interval(EVERY);
    loop {
        ticks.tick().await;
        if let Some(index) = log.index_before(kept)
            && raft.trigger().purge_log(index).await.is_err()
        {
            return;
        }
    }
}
