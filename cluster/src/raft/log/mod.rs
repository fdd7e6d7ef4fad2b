//! The log store: openraft's log, vote and commit position on a [`Kv`].
//!
//! Invariants: an entry is acknowledged only after a sync that covers it; the vote is durable before
//! anybody learns of it; the log has no hole; a record that cannot be read back stops the node.
//!
//! Keys: `log/<index, big-endian>`, `meta/vote`, `meta/committed`, `meta/purged`. Writes are made in
//! the order openraft asks for them, and a crash drops a suffix of them, so what survives is a state
//! that the log has really been in.

mod cache;
mod flusher;
mod inspect;
mod reader;
mod sweep;
#[cfg(test)]
mod tests;
mod weight;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use serde::de::DeserializeOwned;

use self::cache::Cache;
use self::flusher::Flusher;
pub use self::inspect::{LogRecord, entry_index, read_record};
pub use self::reader::LogReader;
use self::sweep::Garbage;
use self::weight::Weight;
use super::codec::{Damaged, DecodeError, entry_len, entry_record, read_entry_record, read_value_record, value_record};
use super::trusted::Trusted;
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::env::Kv;
use crate::env::kv::Write;
use crate::sync::lock;

/// Bytes of recent entries kept in memory.
const CACHE_BYTES: usize = 32 << 20;
/// Most bytes in one atomic batch of appended entries.
const BATCH_BYTES: usize = 4 << 20;
/// Most keys in one atomic batch of deletions.
const BATCH_DELETES: usize = 512;

const VOTE: &[u8] = b"meta/vote";
const COMMITTED: &[u8] = b"meta/committed";
const PURGED: &[u8] = b"meta/purged";
const LOG: &[u8] = b"log/";
/// Just past every log key.
const LOG_END: &[u8] = b"log0";

fn log_key(index: u64) -> Bytes {
    [LOG, &index.to_be_bytes()[..]].concat().into()
}

fn key_index(key: &[u8]) -> Option<u64> {
    let index = key.strip_prefix(LOG)?.try_into().ok()?;
    Some(u64::from_be_bytes(index))
}

fn read_meta<T: DeserializeOwned>(kv: &dyn Kv, key: &[u8]) -> io::Result<Option<T>> {
    let Some(record) = kv.get(key)? else { return Ok(None) };
    let what = || format!("the record {}", String::from_utf8_lossy(key));
    read_value_record(&record).map(Some).map_err(|error| Damaged::io(what(), error))
}

fn read_entry(key: &[u8], record: &Bytes) -> io::Result<Entry> {
    let index = key_index(key)
        .ok_or_else(|| Damaged::io("the log", DecodeError::Malformed("a key without an index".into())))?;
    read_entry_record(index, record).map_err(|error| Damaged::io(format!("the log entry {index}"), error))
}

/// What is known of the log without reading it.
struct Tail {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// The index of the oldest entry that was not purged, when there is one.
    first: Option<u64>,
    /// The last entry, or what was purged last when there is none.
    last: Option<LogId>,
    cache: Cache,
    garbage: Garbage,
    weight: Weight,
}

struct Shared {
    kv: Arc<dyn Kv>,
    tail: Mutex<Tail>,
    flusher: Flusher,
}

impl Shared {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        // Nothing panics between the first and the last change made under this lock.
        lock(&self.tail)
    }
}

/// The log on this node's disk. Clones are the same log.
#[derive(Clone)]
pub struct LogStore(Arc<Shared>);

impl LogStore {
    /// Opens the log; what it holds is durable when this returns.
    ///
    /// # Errors
    /// I/O errors; `InvalidData` when a record is damaged.
    pub async fn open(kv: Arc<dyn Kv>) -> io::Result<Self> {
        Self::open_with(kv, CACHE_BYTES).await
    }

    pub(crate) async fn open_with(kv: Arc<dyn Kv>, cache_bytes: usize) -> io::Result<Self> {
        let kv: Arc<dyn Kv> = Arc::new(Trusted(kv));
        // A process that was killed may have left entries that only the system's cache holds. They
        // count as ours from now on, so they have to survive a power cut too.
        kv.sync().await?;
        let purged: Option<LogId> = read_meta(&*kv, PURGED)?;
        let oldest = kv.range(LOG, LOG_END, 1)?.first().and_then(|(key, _)| key_index(key));
        let newest = match kv.last(LOG, LOG_END)? {
            Some((key, record)) => Some(read_entry(&key, &record)?.log_id),
            None => None,
        };
        let mut garbage = Garbage::default();
        let next = purged.map_or(0, |purged| purged.index + 1);
        let live = newest.filter(|newest| newest.index >= next);
        if let (Some(oldest), Some(newest)) = (oldest, newest) {
            garbage.add(oldest, next.min(newest.index + 1));
        }
        let tail = Tail {
            vote: read_meta(&*kv, VOTE)?,
            committed: read_meta(&*kv, COMMITTED)?,
            purged,
            first: live.and(oldest).map(|oldest| oldest.max(next)),
            last: live.or(purged),
            cache: Cache::new(cache_bytes),
            garbage,
            weight: Weight::default(),
        };
        let flusher = Flusher::start(kv.clone());
        let store = Self(Arc::new(Shared { kv, tail: Mutex::new(tail), flusher }));
        sweep::start(&store.0);
        Ok(store)
    }

    /// The last entry's log id, or that of the last one purged.
    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        self.0.tail().last
    }

    /// The term that this node last voted in.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.0.tail().vote.as_ref().map_or(0, |vote| vote.leader_id.term)
    }

    /// The last entry that was purged: a checkpoint covers it.
    #[must_use]
    pub fn purged(&self) -> Option<LogId> {
        self.0.tail().purged
    }

    /// The newest entry behind which there are at least `bytes` of log, about; `None` when there
    /// are not, as far as was seen since the log was opened.
    #[must_use]
    pub fn index_before(&self, bytes: u64) -> Option<u64> {
        self.0.tail().weight.before(bytes)
    }

    fn delete_from(&self, since: u64, end: u64) -> io::Result<()> {
        // From the end, so that a crash in between leaves no hole.
        let mut end = end;
        while end > since {
            let start = end.saturating_sub(BATCH_DELETES as u64).max(since);
            let batch: Vec<_> = (start..end).rev().map(|index| Write::Delete(log_key(index))).collect();
            self.0.kv.write(&batch)?;
            end = start;
        }
        Ok(())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.0.tail();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader::new(self.0.clone())
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.0.kv.write(&[Write::Put(VOTE.into(), value_record(vote))])?;
        self.0.flusher.sync().await?;
        self.0.tail().vote = Some(*vote);
        Ok(())
    }

    /// Not synced: after a crash an older position is as good, only slower to catch up from.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let write = match &committed {
            Some(committed) => Write::Put(COMMITTED.into(), value_record(committed)),
            None => Write::Delete(COMMITTED.into()),
        };
        self.0.kv.write(&[write])?;
        self.0.tail().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.0.tail().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        let mut batch = Vec::with_capacity(entries.len());
        let mut bytes = 0;
        for entry in &entries {
            let record = entry_record(entry);
            bytes += record.len();
            batch.push(Write::Put(log_key(entry.log_id.index), record));
            if bytes >= BATCH_BYTES {
                self.0.kv.write(&batch)?;
                batch.clear();
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.0.kv.write(&batch)?;
        }
        {
            let mut tail = self.0.tail();
            for entry in entries.drain(..) {
                tail.first.get_or_insert(entry.log_id.index);
                tail.last = Some(entry.log_id);
                tail.weight.add(entry.log_id.index, entry_len(&entry) as u64);
                tail.cache.push(entry);
            }
        }
        self.0.flusher.notify(callback).await;
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let since = last.map_or(0, |last| last.index + 1);
        let end = {
            let mut tail = self.0.tail();
            let Some(first) = tail.first else { return Ok(()) };
            let end = tail.last.map_or(0, |last| last.index + 1);
            if since >= end {
                return Ok(());
            }
            tail.cache.truncate(since);
            if since <= first {
                tail.first = None;
            }
            tail.last = if tail.first.is_some() { last } else { tail.purged };
            end
        };
        self.delete_from(since, end)?;
        self.0.flusher.sync().await
    }

    /// Marks the entries as gone; their records are deleted in the background.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.0.kv.write(&[Write::Put(PURGED.into(), value_record(&upto))])?;
        {
            let mut tail = self.0.tail();
            tail.purged = Some(upto);
            tail.cache.purge(upto.index);
            tail.weight.purge(upto.index);
            let end = tail.last.map_or(0, |last| last.index + 1);
            if let Some(first) = tail.first {
                tail.garbage.add(first, end.min(upto.index + 1));
            }
            if end <= upto.index + 1 {
                tail.first = None;
                tail.last = Some(upto);
            } else {
                tail.first = tail.first.map(|first| first.max(upto.index + 1));
            }
        }
        sweep::start(&self.0);
        Ok(())
    }
}
