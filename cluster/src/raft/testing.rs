//! Stores in memory for this module's tests: they count, fail, crash and rot on command.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::env::kv::Write;
use crate::env::{Blobs, Kv};

#[derive(Default)]
struct KvState {
    durable: BTreeMap<Bytes, Bytes>,
    visible: BTreeMap<Bytes, Bytes>,
    unsynced: Vec<Vec<Write>>,
    syncs: u64,
    reads: u64,
    broken: bool,
}

/// A [`Kv`] that forgets unsynced batches when told to.
pub(crate) struct MemKv {
    state: Mutex<KvState>,
    /// Syncs wait while this is true.
    held: watch::Sender<bool>,
}

fn apply(map: &mut BTreeMap<Bytes, Bytes>, batch: &[Write]) {
    for write in batch {
        match write {
            Write::Put(key, value) => drop(map.insert(key.clone(), value.clone())),
            Write::Delete(key) => drop(map.remove(key)),
        }
    }
}

impl MemKv {
    pub(crate) fn new() -> Arc<Self> {
        Self::with(BTreeMap::new())
    }

    fn with(durable: BTreeMap<Bytes, Bytes>) -> Arc<Self> {
        let state = KvState { visible: durable.clone(), durable, ..KvState::default() };
        Arc::new(Self { state: Mutex::new(state), held: watch::Sender::new(false) })
    }

    fn state(&self) -> MutexGuard<'_, KvState> {
        self.state.lock().expect("no test panics inside")
    }

    /// What a power cut leaves when the first `kept` unsynced batches had reached the disk.
    pub(crate) fn crash(&self, kept: usize) -> Arc<Self> {
        let state = self.state();
        let mut durable = state.durable.clone();
        for batch in state.unsynced.iter().take(kept) {
            apply(&mut durable, batch);
        }
        Self::with(durable)
    }

    pub(crate) fn unsynced(&self) -> usize {
        self.state().unsynced.len()
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    pub(crate) fn reads(&self) -> u64 {
        self.state().reads
    }

    pub(crate) fn keys(&self) -> Vec<Bytes> {
        self.state().visible.keys().cloned().collect()
    }

    pub(crate) fn flip_bit(&self, key: &[u8], bit: usize) {
        let mut state = self.state();
        let mut value = state.visible[key].to_vec();
        value[bit / 8] ^= 1 << (bit % 8);
        state.visible.insert(Bytes::copy_from_slice(key), value.clone().into());
        state.durable.insert(Bytes::copy_from_slice(key), value.into());
    }

    pub(crate) fn break_syncs(&self) {
        self.state().broken = true;
    }

    pub(crate) fn hold_syncs(&self, held: bool) {
        self.held.send_replace(held);
    }
}

#[async_trait]
impl Kv for MemKv {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let mut state = self.state();
        state.reads += 1;
        Ok(state.visible.get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        let mut state = self.state();
        state.reads += 1;
        let (from, to) = (Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
        Ok(state.visible.range(from..to).take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
        let (from, to) = (Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
        Ok(self.state().visible.range(from..to).next_back().map(|(key, value)| (key.clone(), value.clone())))
    }

    fn write(&self, batch: &[Write]) -> io::Result<()> {
        let mut state = self.state();
        apply(&mut state.visible, batch);
        state.unsynced.push(batch.to_vec());
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        let covered = self.unsynced();
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held).await.expect("the sender lives in self");
        let mut state = self.state();
        if state.broken {
            return Err(io::Error::other("the disk is gone"));
        }
        state.syncs += 1;
        let batches: Vec<_> = state.unsynced.drain(..covered).collect();
        for batch in batches {
            apply(&mut state.durable, &batch);
        }
        Ok(())
    }
}

/// [`Blobs`] in memory.
#[derive(Default)]
pub(crate) struct MemBlobs {
    blobs: Mutex<BTreeMap<String, Bytes>>,
    /// Names that cannot be deleted, as if a crash had brought them back.
    undead: Mutex<BTreeSet<String>>,
    full: Mutex<bool>,
}

impl MemBlobs {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn blobs(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.blobs.lock().expect("no test panics inside")
    }

    pub(crate) fn flip_bit(&self, name: &str, bit: usize) {
        let mut blobs = self.blobs();
        let mut value = blobs[name].to_vec();
        value[bit / 8] ^= 1 << (bit % 8);
        blobs.insert(name.to_owned(), value.into());
    }

    pub(crate) fn sizes(&self) -> BTreeMap<String, usize> {
        self.blobs().iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect()
    }

    pub(crate) fn set_full(&self, full: bool) {
        *self.full.lock().expect("no test panics inside") = full;
    }

    /// An independent copy, as it is at this moment.
    pub(crate) fn copy(&self) -> Arc<Self> {
        Arc::new(Self { blobs: Mutex::new(self.blobs().clone()), ..Self::default() })
    }
}

#[async_trait]
impl Blobs for MemBlobs {
    async fn put(&self, name: &str, parts: Vec<Bytes>) -> io::Result<()> {
        if *self.full.lock().expect("no test panics inside") {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.blobs().insert(name.to_owned(), parts.concat().into());
        Ok(())
    }

    async fn read(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        let blobs = self.blobs();
        let bytes = blobs.get(name).ok_or(io::ErrorKind::NotFound)?;
        if range.end > bytes.len() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes.slice(usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")))
    }

    async fn len(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(self.blobs().get(name).map(|bytes| bytes.len() as u64))
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.blobs().keys().cloned().collect())
    }

    async fn delete(&self, name: &str) -> io::Result<()> {
        if !self.undead.lock().expect("no test panics inside").contains(name) {
            self.blobs().remove(name);
        }
        Ok(())
    }
}
