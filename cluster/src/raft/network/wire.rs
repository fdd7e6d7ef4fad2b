//! Raft's messages as bytes.
//!
//! Invariant: the envelope tolerates fields that this build does not know, entries are passed on as
//! they are, and whatever else arrives is an error, never a panic.

use std::io;

use bytes::{Buf, BufMut, Bytes};
use openraft::raft::AppendEntriesRequest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::raft::codec::{DecodeError, decode_entry, encode_entry, entry_len, from_named, to_named};
use crate::raft::types::{LogId, TypeConfig, Vote};

/// First byte of every message.
const WIRE: u8 = 1;

/// One message.
pub(super) fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut out = vec![WIRE];
    to_named(value, &mut out);
    out.into()
}

/// Reads one message.
pub(super) fn decode<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, DecodeError> {
    from_named(&after_version(bytes)?)
}

fn after_version(bytes: &Bytes) -> Result<Bytes, DecodeError> {
    match bytes.first() {
        Some(&WIRE) => Ok(bytes.slice(1..)),
        Some(&other) => Err(DecodeError::Format(other)),
        None => Err(DecodeError::Short),
    }
}

fn put_sized(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.put_u32(0);
    write(out);
    let len = u32::try_from(out.len() - at - 4).expect("a message is far below 4 GiB");
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

fn get_sized(bytes: &mut Bytes) -> Result<Bytes, DecodeError> {
    let len = bytes.try_get_u32().map_err(|_| DecodeError::Short)? as usize;
    if bytes.len() < len {
        return Err(DecodeError::Short);
    }
    Ok(bytes.split_to(len))
}

/// A message with raw bytes behind it.
pub(super) fn encode_with<T: Serialize>(value: &T, tail: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(64 + tail.len());
    out.put_u8(WIRE);
    put_sized(&mut out, |out| to_named(value, out));
    out.extend_from_slice(tail);
    out.into()
}

/// Reads a message with raw bytes behind it.
pub(super) fn decode_with<T: DeserializeOwned>(bytes: &Bytes) -> Result<(T, Bytes), DecodeError> {
    let mut rest = after_version(bytes)?;
    let head = get_sized(&mut rest)?;
    Ok((from_named(&head)?, rest))
}

#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    prev: Option<LogId>,
    commit: Option<LogId>,
}

/// The request's bytes: the head, then each entry behind its length.
pub(super) fn encode_append(rpc: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    let entries: usize = rpc.entries.iter().map(|entry| entry_len(entry) + 4).sum();
    let mut out = Vec::with_capacity(entries + 256);
    out.put_u8(WIRE);
    let head = AppendHead { vote: rpc.vote, prev: rpc.prev_log_id, commit: rpc.leader_commit };
    put_sized(&mut out, |out| to_named(&head, out));
    for entry in &rpc.entries {
        put_sized(&mut out, |out| encode_entry(entry, out));
    }
    out.into()
}

/// Reads an append request; commands share the memory of `bytes`.
///
/// # Errors
/// When it is not exactly one, or its entries do not follow each other and the previous one.
pub fn decode_append(bytes: &Bytes) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let (head, mut rest) = decode_with::<AppendHead>(bytes)?;
    let mut entries = Vec::new();
    let mut next = head.prev.map_or(0, |prev| prev.index.saturating_add(1));
    while !rest.is_empty() {
        let entry = decode_entry(&get_sized(&mut rest)?)?;
        if entry.log_id.index != next {
            return Err(DecodeError::Malformed(format!("entry {} in place of {next}", entry.log_id.index)));
        }
        next = next.saturating_add(1);
        entries.push(entry);
    }
    Ok(AppendEntriesRequest { vote: head.vote, prev_log_id: head.prev, entries, leader_commit: head.commit })
}

/// One step of sending a checkpoint. A `Chunk` has its bytes behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SnapshotCall {
    /// Announces a transfer: a manifest of `len` bytes comes first. Ends any earlier transfer.
    Begin {
        /// The transfer, drawn at random.
        transfer: u64,
        /// The leader's vote.
        vote: Vote,
        /// Length of the manifest, in bytes.
        len: u64,
        /// Its CRC-32.
        crc: u32,
    },
    /// A piece of the manifest (`None`) or of a blob.
    Chunk {
        /// The transfer.
        transfer: u64,
        /// Of what.
        blob: Option<u64>,
        /// Where the piece starts.
        offset: u64,
    },
    /// Which blobs are not there?
    Missing {
        /// The transfer.
        transfer: u64,
    },
    /// All is there: install it.
    End {
        /// The transfer.
        transfer: u64,
    },
}

/// The answer to a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SnapshotReply {
    /// Go on from this offset.
    At(u64),
    /// These blobs are not there.
    Missing(Vec<u64>),
    /// No such transfer is under way: begin again.
    Unknown,
    /// The receiver follows a later leader, or has installed the checkpoint.
    Done(Vote),
}

/// As an I/O error.
pub(super) fn invalid(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
