//! How log entries and small records look on disk and on the links.
//!
//! Invariant: what is read back is what was written, or an error. Every record carries its format,
//! its own place (an entry its index) and a CRC-32 over all of it, so that a flipped bit, a record
//! under a wrong key or one of a newer build is refused instead of believed.

use std::io;

use bytes::{BufMut, Bytes};
use openraft::EntryPayload;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::types::{Entry, LeaderId, LogId, Payload};
use crate::id::NodeId;

/// First byte of every record and entry.
const FORMAT: u8 = 1;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Format, kind, term, node, index.
const ENTRY_HEADER: usize = 1 + 1 + 8 + 8 + 8;
const CRC: usize = 4;

/// Bytes that cannot be what was written here.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its own description.
    #[error("it is cut short")]
    Short,
    /// The checksum is of other bytes.
    #[error("its checksum does not match")]
    Checksum,
    /// Written by a newer build, or not by this program.
    #[error("its format {0} is not one that this build reads")]
    Format(u8),
    /// The store's own checksum does not match.
    #[error("{0}")]
    Store(String),
    /// Well-formed but impossible.
    #[error("it does not make sense: {0}")]
    Malformed(String),
}

/// A record that this node wrote and cannot read back.
#[derive(Debug, thiserror::Error)]
#[error(
    "{what} on this node's disk is damaged: {source}. The node cannot go on from this data; \
     empty its data directory and start it again, and it joins the cluster as a new node"
)]
pub struct Damaged {
    /// Which record.
    pub what: String,
    /// How it shows.
    pub source: DecodeError,
}

impl Damaged {
    /// As an I/O error, which is how openraft takes it.
    pub(crate) fn io(what: impl Into<String>, source: DecodeError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Self { what: what.into(), source })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// About how many bytes [`encode_entry`] makes of `entry`; exact but for membership entries.
#[must_use]
pub fn entry_len(entry: &Entry) -> usize {
    ENTRY_HEADER
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(payload) => payload.0.len(),
            EntryPayload::Membership(_) => 512,
        }
}

/// Appends the entry's bytes to `out`.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.reserve(entry_len(entry) + CRC);
    out.put_u8(FORMAT);
    out.put_u8(match &entry.payload {
        EntryPayload::Blank => BLANK,
        EntryPayload::Normal(_) => NORMAL,
        EntryPayload::Membership(_) => MEMBERSHIP,
    });
    out.put_u64_le(entry.log_id.leader_id.term);
    out.put_u64_le(entry.log_id.leader_id.node_id.0);
    out.put_u64_le(entry.log_id.index);
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(payload) => out.extend_from_slice(&payload.0),
        EntryPayload::Membership(membership) => to_named(membership, out),
    }
}

/// Reads an entry's bytes; a command's bytes are shared with `bytes`, not copied.
///
/// # Errors
/// When they are not exactly one entry.
pub fn decode_entry(bytes: &Bytes) -> Result<Entry, DecodeError> {
    match bytes.first() {
        None => return Err(DecodeError::Short),
        Some(&FORMAT) => {}
        Some(&other) => return Err(DecodeError::Format(other)),
    }
    if bytes.len() < ENTRY_HEADER {
        return Err(DecodeError::Short);
    }
    let leader_id = LeaderId { term: u64_at(bytes, 2), node_id: NodeId(u64_at(bytes, 10)) };
    let log_id = LogId { leader_id, index: u64_at(bytes, 18) };
    let body = bytes.slice(ENTRY_HEADER..);
    let payload = match bytes[1] {
        BLANK if body.is_empty() => EntryPayload::Blank,
        BLANK => return Err(DecodeError::Malformed("a blank entry with a body".into())),
        NORMAL => EntryPayload::Normal(Payload(body)),
        MEMBERSHIP => EntryPayload::Membership(from_named(&body)?),
        kind => return Err(DecodeError::Malformed(format!("unknown kind of entry {kind}"))),
    };
    Ok(Entry { log_id, payload })
}

/// Appends `value` as a self-describing map, so that later builds may add fields.
pub(crate) fn to_named<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    rmp_serde::encode::write_named(out, value).expect("encoding into memory cannot fail");
}

/// Reads what [`to_named`] wrote; fields that this build does not know are skipped.
pub(crate) fn from_named<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    rmp_serde::from_slice(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))
}

/// Appends the checksum of `out`.
fn seal(mut out: Vec<u8>) -> Bytes {
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    Bytes::from(out)
}

/// Checks and takes off the checksum.
fn unseal(record: &Bytes) -> Result<Bytes, DecodeError> {
    let Some(at) = record.len().checked_sub(CRC) else { return Err(DecodeError::Short) };
    let crc = crc32fast::hash(&record[..at]);
    if record[at..] != crc.to_le_bytes() {
        return Err(DecodeError::Checksum);
    }
    Ok(record.slice(..at))
}

/// The log record of an entry.
#[must_use]
pub fn entry_record(entry: &Entry) -> Bytes {
    let mut out = Vec::with_capacity(entry_len(entry) + CRC);
    encode_entry(entry, &mut out);
    seal(out)
}

/// Reads the log record that should be the entry at `index`.
///
/// # Errors
/// When it is damaged or another entry's.
pub fn read_entry_record(index: u64, record: &Bytes) -> Result<Entry, DecodeError> {
    let entry = decode_entry(&unseal(record)?)?;
    if entry.log_id.index != index {
        return Err(DecodeError::Malformed(format!("it is the entry {}", entry.log_id.index)));
    }
    Ok(entry)
}

/// The record of any other small value.
pub(crate) fn value_record<T: Serialize>(value: &T) -> Bytes {
    let mut out = vec![FORMAT];
    to_named(value, &mut out);
    seal(out)
}

/// Reads what [`value_record`] made.
pub(crate) fn read_value_record<T: DeserializeOwned>(record: &Bytes) -> Result<T, DecodeError> {
    let bytes = unseal(record)?;
    match bytes.split_first() {
        Some((&FORMAT, rest)) => from_named(rest),
        Some((&other, _)) => Err(DecodeError::Format(other)),
        None => Err(DecodeError::Short),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::Membership;

    use super::*;
    use crate::raft::Member;

    fn entries() -> Vec<Entry> {
        let log_id = LogId { leader_id: LeaderId { term: 7, node_id: NodeId(9) }, index: 11 };
        let nodes = BTreeMap::from([(NodeId(9), Member { peer_addr: "127.0.0.1:1".into() })]);
        let membership = Membership::new(vec![BTreeSet::from([NodeId(9)])], nodes).expect("a membership");
        vec![
            Entry { log_id, payload: EntryPayload::Blank },
            Entry { log_id, payload: EntryPayload::Normal(Payload(Bytes::from_static(b"a command"))) },
            Entry { log_id, payload: EntryPayload::Membership(membership) },
        ]
    }

    #[test]
    fn entries_come_back() {
        for entry in entries() {
            assert_eq!(read_entry_record(11, &entry_record(&entry)).expect("readable"), entry);
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        for entry in entries() {
            let record = entry_record(&entry);
            for bit in 0..record.len() * 8 {
                let mut bytes = record.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                read_entry_record(11, &bytes.into()).expect_err("a flipped bit");
            }
        }
    }

    #[test]
    fn a_record_under_another_key_is_refused() {
        let record = entry_record(&entries()[0]);
        read_entry_record(12, &record).expect_err("the entry 11 under the key 12");
    }

    #[test]
    fn short_records_are_refused() {
        let record = entry_record(&entries()[1]);
        for len in 0..record.len() {
            read_entry_record(11, &record.slice(..len)).expect_err("cut short");
        }
    }
}
