//! What the records on a node's disk say, for whoever looks at it from outside: the simulator's
//! Raft oracle follows every write of every node by this.

use std::io;

use bytes::Bytes;

use super::{COMMITTED, PURGED, VOTE, key_index, read_entry};
use crate::raft::codec::{Damaged, read_value_record};
use crate::raft::types::{Entry, LogId, Vote};

/// One record of a log store.
#[derive(Debug, Clone)]
pub enum LogRecord {
    /// An entry of the log.
    Entry(Entry),
    /// The vote.
    Vote(Vote),
    /// Up to here the node knows the log to be committed.
    Committed(LogId),
    /// Up to here the log is gone.
    Purged(LogId),
}

/// Reads the record under `key`; `None` when it is none of a log store.
///
/// # Errors
/// `InvalidData` when it is damaged.
pub fn read_record(key: &[u8], record: &Bytes) -> io::Result<Option<LogRecord>> {
    let damaged = |error| Damaged::io(String::from_utf8_lossy(key), error);
    Ok(Some(match key {
        VOTE => LogRecord::Vote(read_value_record(record).map_err(damaged)?),
        COMMITTED => LogRecord::Committed(read_value_record(record).map_err(damaged)?),
        PURGED => LogRecord::Purged(read_value_record(record).map_err(damaged)?),
        _ if key_index(key).is_some() => LogRecord::Entry(read_entry(key, record)?),
        _ => return Ok(None),
    }))
}

/// The index of the entry whose record is under `key`, if it is an entry's.
#[must_use]
pub fn entry_index(key: &[u8]) -> Option<u64> {
    key_index(key)
}
