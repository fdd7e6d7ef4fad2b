//! Small ordered records with atomic batches and an explicit point of durability.
//!
//! Contract: a batch is visible to readers when [`Kv::write`] returns and survives a crash once a
//! later [`Kv::sync`] has returned. A crash drops a *suffix* of whole unsynced batches: never part
//! of a batch, never one from the middle. A failed `sync` leaves the outcome unknown, and every
//! later call fails: the owner must stop (fsync errors cannot be retried; see Rebello et al.,
//! "Can Applications Recover from fsync Failures?", USENIX ATC 2020).

use std::io;

use async_trait::async_trait;
use bytes::Bytes;

/// One change in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets `key` to `value`.
    Put(Bytes, Bytes),
    /// Removes `key`; no error if absent.
    Delete(Bytes),
}

/// Ordered key-value records. Keys are at most 256 bytes, values at most 16 MiB.
#[async_trait]
pub trait Kv: Send + Sync + 'static {
    /// The value at `key`.
    ///
    /// # Errors
    /// I/O errors; `InvalidData` when a record fails its checksum.
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>>;

    /// Up to `limit` records with `from <= key < to`, in key order.
    ///
    /// # Errors
    /// As [`Kv::get`].
    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<(Bytes, Bytes)>>;

    /// The last record with `from <= key < to`.
    ///
    /// # Errors
    /// As [`Kv::get`].
    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>>;

    /// Applies `batch` atomically, in order, visible at once, durable after [`Kv::sync`].
    ///
    /// # Errors
    /// I/O errors (`StorageFull` among them): nothing of the batch was applied.
    fn write(&self, batch: &[Write]) -> io::Result<()>;

    /// Returns when every batch whose `write` returned before this call survives a power cut.
    ///
    /// # Errors
    /// Any error is fatal to this store: what was written since the last success may be lost.
    async fn sync(&self) -> io::Result<()>;
}
