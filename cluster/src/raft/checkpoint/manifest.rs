//! What a checkpoint consists of: the record that is written last and makes the rest one state.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::raft::codec::{DecodeError, read_value_record, value_record};
use crate::raft::types::{LogId, SnapshotMeta, StoredMembership};

/// A blob's name.
pub(crate) fn blob_name(id: u64) -> String {
    format!("{BLOB}{id:016x}")
}

/// A manifest's name. Manifests are numbered by each replica for itself.
pub(crate) fn manifest_name(number: u64) -> String {
    format!("{MANIFEST}{number:016x}")
}

const BLOB: &str = "ck-";
const MANIFEST: &str = "mf-";

fn number(prefix: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix(prefix)?, 16).ok()
}

/// The blob of this name, if it is one's.
pub(crate) fn blob_id(name: &str) -> Option<u64> {
    number(BLOB, name)
}

/// The manifest of this name, if it is one's.
pub(crate) fn manifest_number(name: &str) -> Option<u64> {
    number(MANIFEST, name)
}

/// One checkpoint: the state after one log entry, spread over blobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The last log entry in it.
    pub last_log_id: Option<LogId>,
    /// The membership then.
    pub membership: StoredMembership,
    /// The state but for its shards.
    pub head: Bytes,
    /// Where the newest section of each shard is; one that is not here is empty.
    pub shards: BTreeMap<u32, ShardRef>,
    /// All blobs that the sections and the bodies are in.
    pub blobs: BTreeMap<u64, BlobRef>,
}

/// A shard's part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardRef {
    /// The blob that its section is in.
    pub blob: u64,
    /// Where the section starts.
    pub offset: u64,
    /// Its length, in bytes.
    pub len: u64,
    /// Its CRC-32.
    pub crc: u32,
    /// How many bytes of which blobs its bodies take.
    pub bodies: BTreeMap<u64, u64>,
}

/// A blob as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobRef {
    /// Its length, in bytes.
    pub len: u64,
    /// Its CRC-32.
    pub crc: u32,
}

impl Manifest {
    /// The record's bytes.
    pub fn encode(&self) -> Bytes {
        value_record(self)
    }

    /// Reads and checks a record: everything it refers to lies within its blobs.
    pub fn decode(record: &Bytes) -> Result<Self, DecodeError> {
        let manifest: Self = read_value_record(record)?;
        for (id, shard) in &manifest.shards {
            let blob = manifest.blobs.get(&shard.blob);
            let end = shard.offset.checked_add(shard.len);
            if blob.is_none_or(|blob| end.is_none_or(|end| end > blob.len)) {
                return Err(DecodeError::Malformed(format!("the section of shard {id} is outside of its blob")));
            }
            if shard.bodies.keys().any(|blob| !manifest.blobs.contains_key(blob)) {
                return Err(DecodeError::Malformed(format!("shard {id} has bodies in an unknown blob")));
            }
        }
        Ok(manifest)
    }

    /// As openraft describes a snapshot.
    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last_log_id, last_membership: self.membership.clone() }
    }

    /// Bytes of each blob that the checkpoint still needs.
    pub fn live(&self) -> BTreeMap<u64, u64> {
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        for shard in self.shards.values() {
            *live.entry(shard.blob).or_default() += shard.len;
            for (blob, bytes) in &shard.bodies {
                *live.entry(*blob).or_default() += bytes;
            }
        }
        live
    }

    /// The shards that need any of `blobs`.
    pub fn users_of(&self, blobs: &BTreeSet<u64>) -> Vec<usize> {
        let needs =
            |shard: &ShardRef| blobs.contains(&shard.blob) || shard.bodies.keys().any(|blob| blobs.contains(blob));
        self.shards.iter().filter(|(_, shard)| needs(shard)).map(|(id, _)| *id as usize).collect()
    }
}
