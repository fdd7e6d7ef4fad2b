//! Deletes the records of purged entries a few at a time, off openraft's own task.
//!
//! Invariant: only indexes that `meta/purged` covers are ever here, and those are never written
//! again; so the sweep needs no order with anything else. What a crash leaves is swept at the next
//! start.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{BATCH_DELETES, Shared, log_key};
use crate::env::kv::Write;
use crate::env::{clock, tasks};

/// Between two batches, so that a long sweep leaves the disk to the log.
const PAUSE: Duration = Duration::from_millis(2);

/// What there is to delete.
#[derive(Default)]
pub(super) struct Garbage {
    /// Half-open ranges of indexes.
    ranges: VecDeque<(u64, u64)>,
    sweeping: bool,
}

impl Garbage {
    pub(super) fn add(&mut self, start: u64, end: u64) {
        if start < end {
            self.ranges.push_back((start, end));
        }
    }

    fn take(&mut self) -> Option<(u64, u64)> {
        let (start, end) = self.ranges.pop_front()?;
        let stop = end.min(start + BATCH_DELETES as u64);
        if stop < end {
            self.ranges.push_front((stop, end));
        }
        Some((start, stop))
    }
}

/// Starts sweeping, unless that goes on already.
pub(super) fn start(shared: &Arc<Shared>) {
    let mut tail = shared.tail();
    if !tail.garbage.sweeping && !tail.garbage.ranges.is_empty() {
        tail.garbage.sweeping = true;
        tasks::spawn(run(Arc::downgrade(shared)));
    }
}

async fn run(shared: Weak<Shared>) {
    // Weak, so that a sweep does not keep a closed store open.
    while let Some(shared) = shared.upgrade() {
        let batch: Vec<_> = {
            let mut tail = shared.tail();
            let Some((start, end)) = tail.garbage.take() else {
                tail.garbage.sweeping = false;
                return;
            };
            (start..end).map(|index| Write::Delete(log_key(index))).collect()
        };
        if let Err(error) = shared.kv.write(&batch) {
            // Harmless in itself, and the log's own next write will meet it too.
            tracing::warn!(%error, "purged log records could not be deleted");
        }
        drop(shared);
        clock::sleep(PAUSE).await;
    }
}
