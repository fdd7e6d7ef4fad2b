//! The store of records, with words for what it finds damaged by itself.
//!
//! Invariant: whatever layer finds damage, the node ends with the same word on what to do.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::env::Kv;
use crate::env::kv::Write;
use crate::raft::codec::{Damaged, DecodeError};

/// See the module.
pub(crate) struct Trusted(pub Arc<dyn Kv>);

fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidData => Damaged::io("the store of records", DecodeError::Store(error.to_string())),
        _ => error,
    }
}

#[async_trait]
impl Kv for Trusted {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.0.get(key).map_err(explained)
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        self.0.range(from, to, limit).map_err(explained)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
        self.0.last(from, to).map_err(explained)
    }

    fn write(&self, batch: &[Write]) -> io::Result<()> {
        self.0.write(batch).map_err(explained)
    }

    async fn sync(&self) -> io::Result<()> {
        self.0.sync().await.map_err(explained)
    }
}
