//! Who this node is, from one boot to the next.
//!
//! Invariant: the boot count grows before anything of this boot leaves the process, so the cluster
//! can tell an old copy of a data directory from its true continuation. A damaged record is refused:
//! a node never takes itself for another one. Both halves of a data directory, blobs and records, are one node's, and
//! of one time: a node that lost one of them begins anew under another name, so lost state never votes.

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::env::kv::Write;
use crate::env::{Blobs, Env, Kv};
use crate::id::{Boot, NodeId};
use crate::raft::Trusted;
use crate::raft::codec::{Damaged, DecodeError, read_value_record, value_record};

const BLOB: &str = "identity";
/// Among the records: whose they are.
const RECORD: &[u8] = b"meta/owner";

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    node: String,
    boots: u64,
    /// Why the cluster refused this data directory, for good.
    #[serde(default)]
    refused: Option<String>,
}

/// Reads the identity, or draws one for a fresh directory, and counts this boot.
///
/// # Errors
/// I/O errors; `InvalidData` when the identity cannot be read, or what lies beside it is another's.
pub async fn boot(env: &Env) -> io::Result<(NodeId, Boot)> {
    let damaged = |error| Damaged::io("the identity", error);
    let mut known = None;
    if let Some(len) = env.blobs.len(BLOB).await? {
        let record = env.blobs.read(BLOB, 0..len).await?;
        let stored: Stored = read_value_record(&record).map_err(damaged)?;
        if let Some(why) = stored.refused {
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        known = Some(Owner::read(&stored.node, stored.boots).map_err(damaged)?);
    }
    let kv = Trusted(env.kv.clone());
    let beside = match kv.get(RECORD)? {
        None => None,
        Some(record) => {
            let (node, boots): (String, u64) = read_value_record(&record).map_err(damaged)?;
            Some(Owner::read(&node, boots).map_err(damaged)?)
        }
    };
    let mut records = kv.range(&[], &[0xff], 2)?.into_iter();
    let is_empty = records.all(|(key, _)| key == RECORD);
    let owner = continues(known, beside, is_empty).map_err(|why| damaged(DecodeError::Malformed(why.into())))?;
    let Owner { node, boots } =
        owner.unwrap_or_else(|| Owner { node: NodeId(rand::random_range(1..1 << 53)), boots: 0 });
    let boot = Boot { count: boots + 1, nonce: rand::random() };
    let record = value_record(&(node.to_string(), boot.count));
    kv.write(&[Write::Put(Bytes::from_static(RECORD), record)])?;
    kv.sync().await?;
    let stored = Stored { node: node.to_string(), boots: boot.count, refused: None };
    env.blobs.put(BLOB, vec![value_record(&stored)]).await?;
    Ok((node, boot))
}

/// Whose a half of the data directory is, and how many boots it had seen when it was written last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    node: NodeId,
    boots: u64,
}

impl Owner {
    fn read(node: &str, boots: u64) -> Result<Self, DecodeError> {
        let node = node.parse().map_err(|error| DecodeError::Malformed(format!("{error}")))?;
        Ok(Self { node, boots })
    }
}

/// Who goes on here, `None` where nobody was before: if the identity among the blobs is `known`, and the records,
/// which hold the vote and the log, say that they are those `beside` it.
///
/// A node without its records would vote again in terms in which it has voted, and for leaders that lack what it has
/// promised to keep. Each boot writes to the records first, so they may be one ahead.
fn continues(known: Option<Owner>, beside: Option<Owner>, is_empty: bool) -> Result<Option<Owner>, &'static str> {
    match (known, beside) {
        (None, None) if is_empty => Ok(None),
        // It died in its first boot, before anything of it left the process.
        (None, Some(Owner { node, boots: 1 })) if is_empty => Ok(Some(Owner { node, boots: 0 })),
        (None, _) => Err("the records are there, and what lay beside them is gone"),
        (Some(_), None) if is_empty => Err("the records that lay beside it are gone"),
        // Written before records had an owner.
        (Some(known), None) => Ok(Some(known)),
        (Some(known), Some(beside)) if known.node != beside.node => Err("the records beside it are another node's"),
        (Some(known), Some(beside)) if (known.boots..=known.boots + 1).contains(&beside.boots) => Ok(Some(known)),
        (Some(_), Some(_)) => Err("the records beside it are of another time: one of both is an old copy"),
    }
}

/// Makes every later boot fail with these words: else an old copy would count its boots up until it
/// seems to be newer than its original.
///
/// # Errors
/// I/O errors.
pub async fn refuse(blobs: &dyn Blobs, node: NodeId, boot: Boot, why: &str) -> io::Result<()> {
    let stored = Stored { node: node.to_string(), boots: boot.count, refused: Some(why.to_owned()) };
    blobs.put(BLOB, vec![value_record(&stored)]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_of_a_data_directory_is_refused() {
        let own = |boots| Some(Owner { node: NodeId(7), boots });
        let other = Some(Owner { node: NodeId(8), boots: 3 });
        assert_eq!(continues(None, None, true), Ok(None), "a fresh one");
        assert_eq!(continues(None, own(1), true), Ok(own(0)), "it died while it began");
        assert_eq!(continues(own(3), own(3), false), Ok(own(3)));
        assert_eq!(continues(own(3), own(4), false), Ok(own(3)), "it died while it booted");
        assert_eq!(continues(own(3), None, false), Ok(own(3)), "an earlier build's");
        for (known, beside, is_empty) in [
            (own(3), None, true),
            (own(1), None, true),
            (None, own(1), false),
            (None, own(2), true),
            (None, None, false),
            (own(3), own(2), false),
            (own(3), own(5), false),
            (own(3), other, false),
        ] {
            continues(known, beside, is_empty).expect_err("a half is missing or old");
        }
    }

    /// A flipped bit once made a node take itself for another one.
    #[test]
    fn every_flipped_bit_is_refused() {
        let record = value_record(&Stored { node: NodeId(0x1c_68a7).to_string(), boots: 3, refused: None });
        let read = |record: &Bytes| {
            read_value_record(record).and_then(|stored: Stored| Owner::read(&stored.node, stored.boots))
        };
        assert_eq!(read(&record).expect("whole"), Owner { node: NodeId(0x1c_68a7), boots: 3 });
        for bit in 0..record.len() * 8 {
            let mut bytes = record.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            read(&bytes.into()).expect_err("a flipped bit");
        }
    }
}
