//! Stores in memory for this module's tests: they count, fail, crash and rot on command.

pub(crate) mod cluster;
pub(crate) mod script;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::{ApplySink, LogId};
use crate::env::kv::Write;
use crate::env::net::{BoxConn, Listener};
use crate::env::{Blobs, Env, Kv, Net};
use crate::state::Effect;

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

#[derive(Default)]
struct BlobsState {
    blobs: BTreeMap<String, Bytes>,
    /// What there was after each change.
    history: Vec<BTreeMap<String, Bytes>>,
    written: usize,
    full: bool,
}

/// [`Blobs`] in memory.
#[derive(Default)]
pub(crate) struct MemBlobs {
    state: Mutex<BlobsState>,
}

impl MemBlobs {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn state(&self) -> MutexGuard<'_, BlobsState> {
        self.state.lock().expect("no test panics inside")
    }

    pub(crate) fn flip_bit(&self, name: &str, bit: usize) {
        let mut state = self.state();
        let mut value = state.blobs[name].to_vec();
        value[bit / 8] ^= 1 << (bit % 8);
        state.blobs.insert(name.to_owned(), value.into());
    }

    pub(crate) fn sizes(&self) -> BTreeMap<String, usize> {
        self.state().blobs.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect()
    }

    /// Bytes ever put.
    pub(crate) fn written(&self) -> usize {
        self.state().written
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// An independent copy, as it is at this moment.
    pub(crate) fn copy(&self) -> Arc<Self> {
        Self::with(self.state().blobs.clone())
    }

    /// What crashes after each of the changes so far would have left.
    pub(crate) fn crashes(&self) -> Vec<Arc<Self>> {
        self.state().history.iter().cloned().map(Self::with).collect()
    }

    fn with(blobs: BTreeMap<String, Bytes>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(BlobsState { blobs, ..BlobsState::default() }) })
    }
}

#[async_trait]
impl Blobs for MemBlobs {
    async fn put(&self, name: &str, parts: Vec<Bytes>) -> io::Result<()> {
        let mut state = self.state();
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let value: Bytes = parts.concat().into();
        state.written += value.len();
        state.blobs.insert(name.to_owned(), value);
        let now = state.blobs.clone();
        state.history.push(now);
        Ok(())
    }

    async fn read(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        let state = self.state();
        let bytes = state.blobs.get(name).ok_or(io::ErrorKind::NotFound)?;
        if range.end > bytes.len() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes.slice(usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")))
    }

    async fn len(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(self.state().blobs.get(name).map(|bytes| bytes.len() as u64))
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().blobs.keys().cloned().collect())
    }

    async fn delete(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.blobs.remove(name);
        let now = state.blobs.clone();
        state.history.push(now);
        Ok(())
    }
}

/// A [`Net`] that nobody is on.
pub(crate) struct NoNet;

#[async_trait]
impl Net for NoNet {
    async fn listen(&self, _addr: &str) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn connect(&self, _addr: &str) -> io::Result<BoxConn> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// One node's environment in memory.
pub(crate) fn env(kv: Arc<MemKv>, blobs: Arc<MemBlobs>) -> Env {
    Env { net: Arc::new(NoNet), kv, blobs }
}

/// Takes note of nothing.
pub(crate) struct NoSink;

impl ApplySink for NoSink {
    fn applied(&self, _at: &LogId, _effects: Vec<Effect>) {}
    fn installed(&self, _index: u64) {}
}
