//! Large immutable objects: checkpoints and the node's identity.

use std::io;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

/// Checks a blob's name: `[a-z0-9][a-z0-9._-]{0,63}`.
///
/// # Errors
/// `InvalidInput` when it breaks the rule.
pub fn check_name(name: &str) -> io::Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let allowed = |byte: u8| plain(byte) || matches!(byte, b'.' | b'_' | b'-');
    if name.len() <= 64 && name.bytes().next().is_some_and(plain) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "a blob's name is [a-z0-9][a-z0-9._-]{0,63}"))
}

/// A flat folder of immutable objects. Names follow [`check_name`]; another is `InvalidInput`.
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
    /// `NotFound`; `UnexpectedEof` when the range ends past the object; `InvalidInput` when it ends
    /// before its start.
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
