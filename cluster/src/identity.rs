//! Who this node is, from one boot to the next.
//!
//! Invariant: the boot count grows before anything of this boot leaves the process, so the cluster
//! can tell an old copy of a data directory from its true continuation. A damaged record is refused:
//! a node never takes itself for another one.

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::env::Blobs;
use crate::id::{Boot, NodeId};
use crate::raft::codec::{Damaged, DecodeError, read_value_record, value_record};

const BLOB: &str = "identity";

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
/// I/O errors; `InvalidData` when the record cannot be read.
pub async fn boot(blobs: &dyn Blobs) -> io::Result<(NodeId, Boot)> {
    let (node, boots) = match blobs.len(BLOB).await? {
        None => (NodeId(rand::random_range(1..1 << 53)), 0),
        Some(len) => {
            let record = blobs.read(BLOB, 0..len).await?;
            let (node, stored) = read(&record).map_err(|error| Damaged::io("the identity", error))?;
            if let Some(why) = stored.refused {
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            (node, stored.boots)
        }
    };
    let boot = Boot { count: boots + 1, nonce: rand::random() };
    let stored = Stored { node: node.to_string(), boots: boot.count, refused: None };
    blobs.put(BLOB, vec![value_record(&stored)]).await?;
    Ok((node, boot))
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

fn read(record: &Bytes) -> Result<(NodeId, Stored), DecodeError> {
    let stored: Stored = read_value_record(record)?;
    let node = stored.node.parse().map_err(|error| DecodeError::Malformed(format!("{error}")))?;
    Ok((node, stored))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flipped bit once made a node take itself for another one.
    #[test]
    fn every_flipped_bit_is_refused() {
        let record = value_record(&Stored { node: NodeId(0x1c_68a7).to_string(), boots: 3, refused: None });
        assert!(matches!(read(&record), Ok((NodeId(0x1c_68a7), Stored { boots: 3, .. }))));
        for bit in 0..record.len() * 8 {
            let mut bytes = record.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            read(&bytes.into()).expect_err("a flipped bit");
        }
    }
}
