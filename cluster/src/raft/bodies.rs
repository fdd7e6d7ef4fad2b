//! Bodies that a checkpoint took out of memory.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::checkpoint::{BODY_CRC, blob_name, stored_bytes};
use super::codec::{Damaged, DecodeError};
use crate::env::Blobs;
use crate::state::Stored;

/// Most bytes read at once for several bodies that lie side by side.
const RUN_BYTES: u64 = 1 << 20;

/// Reads bodies from this replica's checkpoint blobs.
#[derive(Clone)]
pub struct Bodies {
    blobs: Arc<dyn Blobs>,
}

impl Bodies {
    pub(crate) fn new(blobs: Arc<dyn Blobs>) -> Self {
        Self { blobs }
    }

    /// One body.
    ///
    /// # Errors
    /// `NotFound` when its message has left the state since, and its blob with it: look at the
    /// inbox again. `InvalidData` when it is damaged. Other I/O errors.
    pub async fn read(&self, stored: Stored) -> io::Result<Bytes> {
        let end = stored.offset.saturating_add(stored_bytes(&stored));
        let bytes = self.blobs.read(&blob_name(stored.blob), stored.offset..end).await?;
        checked(&stored, &bytes)
    }

    /// Several bodies, in order. Those that lie side by side, as one inbox's mostly do, are read at
    /// once.
    ///
    /// # Errors
    /// As [`Bodies::read`].
    pub async fn read_many(&self, stored: &[Stored]) -> io::Result<Vec<Bytes>> {
        let mut bodies = Vec::with_capacity(stored.len());
        let mut rest = stored;
        while let Some(first) = rest.first() {
            let mut end = first.offset.saturating_add(stored_bytes(first));
            let mut run = 1;
            for next in &rest[1..] {
                if next.blob != first.blob || next.offset != end || end - first.offset > RUN_BYTES {
                    break;
                }
                end = end.saturating_add(stored_bytes(next));
                run += 1;
            }
            let bytes = self.blobs.read(&blob_name(first.blob), first.offset..end).await?;
            let (together, later) = rest.split_at(run);
            let mut at = 0;
            for one in together {
                let len = stored_bytes(one) as usize;
                bodies.push(checked(one, &bytes.slice(at..at + len))?);
                at += len;
            }
            rest = later;
        }
        Ok(bodies)
    }
}

fn checked(stored: &Stored, bytes: &Bytes) -> io::Result<Bytes> {
    let (body, crc) = bytes.split_at(bytes.len() - BODY_CRC as usize);
    if crc32fast::hash(body).to_le_bytes() != crc {
        let what = format!("a message's body in {}", blob_name(stored.blob));
        return Err(Damaged::io(what, DecodeError::Checksum));
    }
    Ok(bytes.slice(..body.len()))
}
