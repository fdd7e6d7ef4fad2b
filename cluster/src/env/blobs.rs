//! Large immutable objects: checkpoints and the node's identity.

use std::io;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

/// A flat folder of immutable objects. Names match `[a-z0-9._-]{1,64}`.
#[async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// Stores the concatenation of `parts` under `name`, replacing what was there: after a crash
    /// the name holds either the old or the new object, whole. Durable when it returns.
    ///
    /// # Errors
    /// I/O errors (`StorageFull` among them): the old object, if any, is still there.
    async fn put(&self, name: &str, parts: Vec<Bytes>) -> io::Result<()>;

    /// Reads `range` of the object; all of it must exist.
    ///
    /// # Errors
    /// `NotFound`; `UnexpectedEof` when the range ends past the object.
    async fn read(&self, name: &str, range: Range<u64>) -> io::Result<Bytes>;

    /// The object's length in bytes, `None` when there is none of that name.
    ///
    /// # Errors
    /// I/O errors.
    async fn len(&self, name: &str) -> io::Result<Option<u64>>;

    /// All names, sorted.
    ///
    /// # Errors
    /// I/O errors.
    async fn list(&self) -> io::Result<Vec<String>>;

    /// Removes the object; no error if absent. May come back after a crash.
    ///
    /// # Errors
    /// I/O errors.
    async fn delete(&self, name: &str) -> io::Result<()>;
}
