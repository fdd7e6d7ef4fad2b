//! Checkpoints: the state at one log entry, on disk, for restarts and for replicas that lag.
//!
//! A checkpoint is a set of immutable blobs and a manifest that is written last, at once. Only what
//! changed since the previous one is written: each shard's newest section, and the bodies that were
//! only in memory. Invariants: a manifest never refers to anything that is not durable; a blob is
//! deleted only when neither the current manifest nor one in use elsewhere refers to it; what was
//! damaged is refused.

mod blob;
mod build;
mod manifest;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

pub(crate) use blob::{BODY_CRC, stored_bytes};
pub(crate) use build::{Build, Frame};
pub(crate) use manifest::{BlobRef, Manifest, blob_name};
pub(crate) use store::Store;

use super::codec::{Damaged, DecodeError};
use crate::env::Blobs;

/// Read at a time to check a blob.
const CHECKED_BYTES: u64 = 512 << 10;

/// A checkpoint in use: as long as this lives, so do its blobs.
#[derive(Clone)]
pub struct Checkpoint {
    pub(crate) manifest: Arc<Manifest>,
    /// Where its blobs are.
    pub(crate) blobs: Arc<dyn Blobs>,
}

impl Checkpoint {
    /// Reads a blob of it to its end: whether it is still what was written.
    ///
    /// # Errors
    /// I/O errors; `InvalidData` when it is damaged.
    pub(crate) async fn check(&self, id: u64, blob: &BlobRef) -> io::Result<()> {
        let name = blob_name(id);
        let (mut crc, mut offset) = (crc32fast::Hasher::new(), 0);
        while offset < blob.len {
            let end = blob.len.min(offset + CHECKED_BYTES);
            crc.update(&self.blobs.read(&name, offset..end).await?);
            offset = end;
        }
        if crc.finalize() != blob.crc {
            let why = DecodeError::Malformed("its checksum does not match".into());
            return Err(Damaged::io(format!("the checkpoint's {name}"), why));
        }
        Ok(())
    }
}
