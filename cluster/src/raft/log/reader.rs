//! Reads the log: from memory where it can, else from the store in bounded pieces.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use openraft::{OptionalSend, RaftLogReader};

use super::{Shared, log_key, read_entry};
use crate::peer::limits::POLITE_PAYLOAD;
use crate::raft::codec::{Damaged, DecodeError, entry_len};
use crate::raft::types::{Entry, TypeConfig, Vote};

/// Most bytes of entries in one read, and so in one `AppendEntries`: its frame on a link is to stay
/// polite. A single larger entry is read alone.
pub(crate) const READ_BYTES: usize = POLITE_PAYLOAD / 4 * 3;
/// Most records in one read of the store.
const READ_RECORDS: usize = 512;

/// A reader of the log. Any number of them read while the log is written.
pub struct LogReader {
    shared: Arc<Shared>,
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The entries from the first one at or after `start` and before `end`, as many as fit into
    /// [`READ_BYTES`]; empty only when there are none.
    fn read(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let (start, end, cached) = {
            let tail = self.shared.tail();
            let (Some(first), Some(last)) = (tail.first, tail.last) else { return Ok(found) };
            let (start, end) = (start.max(first), end.min(last.index + 1));
            if start >= end {
                return Ok(found);
            }
            let cached = tail.cache.first().map_or(end, |first| first.min(end));
            if start >= cached {
                for entry in (start..end).map_while(|index| tail.cache.get(index)) {
                    bytes += entry_len(entry);
                    if bytes > READ_BYTES && !found.is_empty() {
                        break;
                    }
                    found.push(entry.clone());
                }
                return Ok(found);
            }
            (start, end, cached)
        };
        let (from, to) = (log_key(start), log_key(end.min(cached)));
        for (at, (key, record)) in self.shared.kv.range(&from, &to, READ_RECORDS)?.into_iter().enumerate() {
            let entry = read_entry(&key, &record)?;
            if entry.log_id.index != start + at as u64 {
                return self.hole(start + at as u64);
            }
            bytes += entry_len(&entry);
            if bytes > READ_BYTES && !found.is_empty() {
                break;
            }
            found.push(entry);
        }
        if found.is_empty() { self.hole(start) } else { Ok(found) }
    }

    /// An entry that should be there is not: it was deleted meanwhile, or the log is damaged.
    fn hole(&self, index: u64) -> io::Result<Vec<Entry>> {
        let tail = self.shared.tail();
        let live = tail.first.is_some_and(|first| first <= index) && tail.last.is_some_and(|last| index <= last.index);
        if live {
            return Err(Damaged::io("the log", DecodeError::Malformed(format!("the entry {index} is missing"))));
        }
        Ok(Vec::new())
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    /// In pieces, so that applying a long log does not load all of it.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let reader = Self::new(self.shared.clone());
        let pieces = stream::unfold((reader, start, end), |(reader, start, end)| async move {
            if start >= end {
                return None;
            }
            match reader.read(start, end) {
                Ok(found) => {
                    let next = found.last()?.log_id.index + 1;
                    Some((found.into_iter().map(Ok).collect::<Vec<_>>(), (reader, next, end)))
                }
                Err(error) => Some((vec![Err(error)], (reader, end, end))),
            }
        });
        Box::pin(pieces.flat_map(stream::iter))
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut start, end) = bounds(&range);
        let mut all = Vec::new();
        loop {
            let found = self.read(start, end)?;
            let Some(last) = found.last() else { return Ok(all) };
            start = last.log_id.index + 1;
            all.extend(found);
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.tail().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end)
    }
}
