//! Writing a checkpoint's blobs.
//!
//! Invariant: a blob is whole and durable before anything refers to it, and never changes then. Its
//! id is drawn at random, so that a replica can take over another one's blobs as they are.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::manifest::{BlobRef, ShardRef, blob_name};
use crate::env::Blobs;
use crate::state::Stored;

/// A blob is closed once it has this many bytes: what a receiver of it has to hold in memory.
pub(crate) const BLOB_BYTES: u64 = 16 << 20;
/// Bytes after each body: its CRC-32.
pub(crate) const BODY_CRC: u64 = 4;

/// The bytes that `stored` takes of its blob, its checksum included.
pub(crate) fn stored_bytes(stored: &Stored) -> u64 {
    u64::from(stored.len) + BODY_CRC
}

/// Collects bodies and sections, and puts them into as many blobs as it takes.
pub(super) struct BlobWriter {
    blobs: Arc<dyn Blobs>,
    id: u64,
    parts: Vec<Bytes>,
    len: u64,
    crc: crc32fast::Hasher,
    /// The blobs already durable.
    done: BTreeMap<u64, BlobRef>,
}

impl BlobWriter {
    pub fn new(blobs: Arc<dyn Blobs>) -> Self {
        Self {
            blobs,
            id: rand::random(),
            parts: Vec::new(),
            len: 0,
            crc: crc32fast::Hasher::new(),
            done: BTreeMap::new(),
        }
    }

    fn push(&mut self, part: Bytes) -> u64 {
        let offset = self.len;
        self.len += part.len() as u64;
        self.crc.update(&part);
        self.parts.push(part);
        offset
    }

    /// Adds a message's body.
    pub async fn body(&mut self, body: Bytes) -> io::Result<Stored> {
        self.make_room().await?;
        let len = u32::try_from(body.len()).map_err(|_| io::Error::other("a body of more than 4 GiB"))?;
        let crc = crc32fast::hash(&body).to_le_bytes();
        let offset = self.push(body);
        self.push(Bytes::copy_from_slice(&crc));
        Ok(Stored { blob: self.id, offset, len })
    }

    /// Adds a shard's section, whose bodies are where `bodies` says.
    pub async fn section(&mut self, section: Bytes, bodies: BTreeMap<u64, u64>) -> io::Result<ShardRef> {
        self.make_room().await?;
        let (len, crc) = (section.len() as u64, crc32fast::hash(&section));
        let offset = self.push(section);
        Ok(ShardRef { blob: self.id, offset, len, crc, bodies })
    }

    async fn make_room(&mut self) -> io::Result<()> {
        if self.len >= BLOB_BYTES { self.put().await } else { Ok(()) }
    }

    async fn put(&mut self) -> io::Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let blob = BlobRef { len: self.len, crc: std::mem::take(&mut self.crc).finalize() };
        self.blobs.put(&blob_name(self.id), std::mem::take(&mut self.parts)).await?;
        self.done.insert(self.id, blob);
        self.len = 0;
        self.id = rand::random();
        Ok(())
    }

    /// Makes the rest durable, and tells which blobs were written.
    pub async fn finish(mut self) -> io::Result<BTreeMap<u64, BlobRef>> {
        self.put().await?;
        Ok(self.done)
    }
}
