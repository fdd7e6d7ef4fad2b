//! The newest entries in memory, so that replication and applying do not read the disk.
//!
//! Invariant: holds a gapless run of entries that ends with the log's last one, and no more bytes
//! than its limit (but always the last entry).

use std::collections::VecDeque;

use crate::raft::codec::entry_len;
use crate::raft::types::Entry;

pub(super) struct Cache {
    entries: VecDeque<Entry>,
    bytes: usize,
    limit_bytes: usize,
}

impl Cache {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, limit_bytes }
    }

    /// The index of the oldest entry held.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    /// Adds the log's new last entry.
    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.back().is_some_and(|last| last.log_id.index + 1 != entry.log_id.index) {
            self.clear();
        }
        self.bytes += entry_len(&entry);
        self.entries.push_back(entry);
        while self.bytes > self.limit_bytes && self.entries.len() > 1 {
            self.pop_front();
        }
    }

    /// The entry at `index`, if held.
    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.first()?)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// Forgets the entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        while let Some(last) = self.entries.back()
            && last.log_id.index >= index
        {
            self.bytes -= entry_len(last);
            self.entries.pop_back();
        }
    }

    /// Forgets the entries up to `index`, inclusive.
    pub(super) fn purge(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(first) = self.entries.pop_front() {
            self.bytes -= entry_len(&first);
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}
