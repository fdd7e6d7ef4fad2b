//! Who this node is, from one boot to the next.
//!
//! Invariant: the boot count grows before anything of this boot leaves the process, so the cluster
//! can tell an old copy of a data directory from its true continuation.

use std::io;

use serde::{Deserialize, Serialize};

use crate::env::Blobs;
use crate::id::{Boot, NodeId};

const BLOB: &str = "identity";

#[derive(Serialize, Deserialize)]
struct Stored {
    node: String,
    boots: u64,
}

/// Reads the identity, or draws one for a fresh directory, and counts this boot.
///
/// # Errors
/// I/O errors; `InvalidData` when the record cannot be read.
pub async fn boot(blobs: &dyn Blobs) -> io::Result<(NodeId, Boot)> {
    let invalid = |why: String| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{BLOB} in the data directory is damaged ({why}): rejoin with an empty data directory"),
        )
    };
    let (node, boots) = match blobs.len(BLOB).await? {
        None => (NodeId(rand::random_range(1..1 << 53)), 0),
        Some(len) => {
            let stored: Stored =
                postcard::from_bytes(&blobs.read(BLOB, 0..len).await?).map_err(|error| invalid(error.to_string()))?;
            (stored.node.parse().map_err(|error| invalid(format!("{error}")))?, stored.boots)
        }
    };
    let boot = Boot { count: boots + 1, nonce: rand::random() };
    let stored = Stored { node: node.to_string(), boots: boot.count };
    let bytes = postcard::to_stdvec(&stored).map_err(io::Error::other)?;
    blobs.put(BLOB, vec![bytes.into()]).await?;
    Ok((node, boot))
}
