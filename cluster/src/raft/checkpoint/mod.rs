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

use std::sync::Arc;

pub(crate) use blob::{BODY_CRC, stored_bytes};
pub(crate) use build::{Build, Frame};
pub(crate) use manifest::{BlobRef, Manifest, blob_name};
pub(crate) use store::Store;

use crate::env::Blobs;

/// A checkpoint in use: as long as this lives, so do its blobs.
#[derive(Clone)]
pub struct Checkpoint {
    pub(crate) manifest: Arc<Manifest>,
    /// Where its blobs are.
    pub(crate) blobs: Arc<dyn Blobs>,
}
