//! `Kv` on sled.
//!
//! Invariant: `sync` answers only after `fdatasync` of sled's one file. Sled's own `flush` stops at
//! `sync_file_range`, which reaches neither the file's size nor the disk's cache. One thread does it
//! for all who wait, so callers share a disk access.
//!
//! Any error of sled or the disk is the end of this store: every later call repeats it. What sled
//! lost without noticing (it stops reading its log at a damaged place) shows itself at the next
//! start: each sync notes in a file of its own how many batches it made durable.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::env::Kv;
use cluster::env::kv::Write;
use cluster::sync::{lock, read, write};
use sled::{Batch, Db, Tree};
use tokio::sync::oneshot;

use super::packing::{self, CHUNK, MAX_KEY, MAX_VALUE, Record, SEGMENT, Split};
use super::{DirLock, OpenError, panic, sync_dir};

/// Memory for recently used pages, in bytes. Callers keep their own cache of recent records.
const CACHE: u64 = 64 << 20;
/// How often, and after what pause, to try again for a lock that this process itself still holds:
/// sled lets go of its file a moment after its last handle.
const LOCK_TRIES: u32 = 400;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// The tree and the key of the count of batches.
const COUNT_TREE: &str = "count";
const COUNT_KEY: &str = "batches";

/// Records in sled.
#[derive(Debug)]
pub struct SledKv {
    store: Arc<Store>,
    syncer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Store {
    db: Db,
    counts: Tree,
    /// Sled's file, for `fdatasync`.
    file: File,
    /// Says how many batches are durable.
    synced: File,
    /// Readers see whole batches only.
    next: RwLock<Next>,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    failed: OnceLock<(io::ErrorKind, String)>,
    _lock: Arc<DirLock>,
}

#[derive(Debug)]
struct Next {
    /// Names the next split value's chunks.
    split: u64,
    /// Batches written so far.
    batches: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    syncs: Vec<oneshot::Sender<io::Result<()>>>,
    closed: bool,
}

impl SledKv {
    /// Opens the records in the folder `path`, creating it if absent.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] when sled cannot read its file, or lost what was durable;
    /// [`OpenError::Io`].
    pub fn open(path: &Path, lock: Arc<DirLock>) -> Result<Self, OpenError> {
        // Sled panics on files that it cannot make sense of.
        let opened = panic::catch(|| Store::open(path, lock));
        let store = opened.unwrap_or_else(|detail| Err(OpenError::Corrupt { dir: path.to_owned(), detail }))?;
        let store = Arc::new(store);
        let syncer = thread::Builder::new().name("sync".into()).spawn({
            let store = store.clone();
            move || store.serve_syncs()
        });
        let syncer = syncer.map_err(|error| OpenError::io(path, error))?;
        Ok(Self { store, syncer: Some(syncer) })
    }
}

impl Drop for SledKv {
    fn drop(&mut self) {
        self.store.waiting().closed = true;
        self.store.wake.notify_one();
        if let Some(syncer) = self.syncer.take() {
            // Its panic has been reported by the panic itself; there is nobody left to tell.
            let _ = syncer.join();
        }
    }
}

#[async_trait]
impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let store = &self.store;
        store.guarded(|| {
            let _whole = read(&store.next);
            store.db.get(packing::record_key(key)).map_err(io_error)?.map(|stored| store.value(&stored)).transpose()
        })
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        let store = &self.store;
        store.guarded(|| {
            let _whole = read(&store.next);
            if from >= to {
                return Ok(Vec::new());
            }
            let range = packing::record_key(from)..packing::record_key(to);
            store.db.range(range).take(limit).map(|found| store.record(found)).collect()
        })
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
        let store = &self.store;
        store.guarded(|| {
            let _whole = read(&store.next);
            if from >= to {
                return Ok(None);
            }
            let range = packing::record_key(from)..packing::record_key(to);
            store.db.range(range).next_back().map(|found| store.record(found)).transpose()
        })
    }

    fn write(&self, batch: &[Write]) -> io::Result<()> {
        self.store.guarded(|| self.store.write(batch))
    }

    async fn sync(&self) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.store.waiting().syncs.push(done);
        self.store.wake.notify_one();
        answer.await.unwrap_or_else(|_| Err(io::Error::other("the store is closed")))
    }
}

impl Store {
    fn open(path: &Path, lock: Arc<DirLock>) -> Result<Self, OpenError> {
        let corrupt = |detail: String| OpenError::Corrupt { dir: path.to_owned(), detail };
        let failed = |error: sled::Error| match error {
            sled::Error::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => OpenError::io(path, error),
            error => corrupt(error.to_string()),
        };
        let db = open_db(path).map_err(failed)?;
        let counts = db.open_tree(COUNT_TREE).map_err(failed)?;
        let batches = match counts.get(COUNT_KEY).map_err(failed)? {
            Some(count) => decode_count(&count).ok_or_else(|| corrupt("the count of batches is damaged".into()))?,
            None => 0,
        };
        let io_failed = |error| OpenError::io(path, error);
        // A missing or torn note says nothing; it is never newer than what was durable.
        let (synced, durable) = open_note(&path.join("synced")).map_err(io_failed)?;
        if batches < durable {
            return Err(corrupt(format!("{} of the last batches that were durable are gone", durable - batches)));
        }
        let last_part = packing::record_key(b"");
        let split = match db.get_lt(last_part).map_err(failed)? {
            Some((key, _)) => packing::part_id(&key).map_or(0, |id| id + 1),
            None => 0,
        };
        let file = File::open(path.join("db")).map_err(io_failed)?;
        for created in [path.join("conf"), path.join("db")] {
            File::open(created).and_then(|file| file.sync_all()).map_err(io_failed)?;
        }
        sync_dir(path).map_err(io_failed)?;
        Ok(Self {
            db,
            counts,
            file,
            synced,
            next: RwLock::new(Next { split, batches }),
            waiting: Mutex::default(),
            wake: Condvar::new(),
            failed: OnceLock::new(),
            _lock: lock,
        })
    }

    /// Runs one call: not after a failure, and whatever goes wrong with sled or the disk, a panic
    /// of sled's included, is a failure for good. A mistake of the caller is not.
    fn guarded<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if let Some((kind, text)) = self.failed.get() {
            return Err(io::Error::new(*kind, text.clone()));
        }
        let result = panic::catch(call)
            .unwrap_or_else(|detail| Err(io::Error::new(io::ErrorKind::InvalidData, format!("sled failed: {detail}"))));
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::InvalidInput
        {
            let _ = self.failed.set((error.kind(), error.to_string()));
        }
        result
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    fn value(&self, stored: &[u8]) -> io::Result<Bytes> {
        match packing::decode(stored)? {
            Record::Inline(value) => Ok(Bytes::copy_from_slice(value)),
            Record::Split(split) => packing::join(split, |n| {
                let part = self.db.get(packing::part_key(split.id, n)).map_err(io_error)?;
                Ok(part.map(|part| Bytes::copy_from_slice(&part)))
            }),
        }
    }

    fn record(&self, found: sled::Result<(sled::IVec, sled::IVec)>) -> io::Result<(Bytes, Bytes)> {
        let (key, stored) = found.map_err(io_error)?;
        Ok((packing::caller_key(&key), self.value(&stored)?))
    }

    fn write(&self, writes: &[Write]) -> io::Result<()> {
        let last = last_writes(writes)?;
        let mut next = write(&self.next);
        let mut changes = Vec::with_capacity(last.len());
        for (key, value) in last {
            let stored_key = packing::record_key(key);
            if let Some(old) = self.db.get(&stored_key).map_err(io_error)?
                && let Record::Split(split) = packing::decode(&old)?
            {
                changes.extend((0..split.parts()).map(|n| (packing::part_key(split.id, n).to_vec(), None)));
            }
            let stored = match value {
                None => None,
                Some(value) if value.len() <= CHUNK => Some(packing::inline(value)),
                Some(value) => {
                    let split = Split { id: next.split, len: value.len() as u32 };
                    next.split += 1;
                    let parts = (0..).zip(value.chunks(CHUNK));
                    changes
                        .extend(parts.map(|(n, part)| (packing::part_key(split.id, n).to_vec(), Some(part.to_vec()))));
                    Some(split.encode())
                }
            };
            changes.push((stored_key, stored));
        }
        self.apply(changes).map_err(io_error)?;
        next.batches += 1;
        self.counts.insert(COUNT_KEY, &next.batches.to_be_bytes()).map_err(io_error)?;
        Ok(())
    }

    /// Applies changes of different keys atomically. A single one is atomic by itself, and spares
    /// sled the disk writes with which it brackets a batch.
    fn apply(&self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> sled::Result<()> {
        if let [(key, value)] = changes.as_slice() {
            return match value {
                Some(value) => self.db.insert(key, value.as_slice()).map(drop),
                None => self.db.remove(key).map(drop),
            };
        }
        let mut batch = Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch)
    }

    /// The syncing thread: one disk access for all who wait.
    fn serve_syncs(&self) {
        loop {
            let mut waiting = self.waiting();
            while waiting.syncs.is_empty() && !waiting.closed {
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            let syncs = std::mem::take(&mut waiting.syncs);
            drop(waiting);
            if syncs.is_empty() {
                return;
            }
            let result = self.guarded(|| self.sync_now());
            for done in syncs {
                let answer = match &result {
                    Ok(()) => Ok(()),
                    Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
                };
                // Whoever gave up waiting needs no answer.
                let _ = done.send(answer);
            }
        }
    }

    fn sync_now(&self) -> io::Result<()> {
        let batches = read(&self.next).batches;
        self.db.flush().map_err(io_error)?;
        self.file.sync_data()?;
        self.synced.write_all_at(&encode_note(batches), 0)
    }
}

/// The last write of each key: within a batch no other is ever seen.
fn last_writes(writes: &[Write]) -> io::Result<BTreeMap<&[u8], Option<&Bytes>>> {
    let mut last = BTreeMap::new();
    for write in writes {
        let (key, value) = match write {
            Write::Put(key, value) => (key, Some(value)),
            Write::Delete(key) => (key, None),
        };
        if key.len() > MAX_KEY || value.is_some_and(|value| value.len() > MAX_VALUE) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a key or value beyond the store's limits"));
        }
        last.insert(key.as_ref(), value);
    }
    Ok(last)
}

#[allow(clippy::disallowed_methods)] // A pause at the start, on the thread that opens.
fn open_db(path: &Path) -> sled::Result<Db> {
    let config = sled::Config::new().path(path).segment_size(SEGMENT).cache_capacity(CACHE).flush_every_ms(None);
    for _ in 0..LOCK_TRIES {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                thread::sleep(LOCK_PAUSE);
            }
            result => return result,
        }
    }
    config.open()
}

fn decode_count(count: &[u8]) -> Option<u64> {
    count.try_into().ok().map(u64::from_be_bytes)
}

fn encode_note(batches: u64) -> [u8; 12] {
    let mut note = [0; 12];
    note[..8].copy_from_slice(&batches.to_be_bytes());
    let crc = crc32fast::hash(&note[..8]);
    note[8..].copy_from_slice(&crc.to_be_bytes());
    note
}

/// The note's file and what it says; 0 when it says nothing.
fn open_note(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    let mut note = [0; 12];
    let batches = match file.read_exact_at(&mut note, 0) {
        Ok(()) => decode_count(&note[..8]).filter(|&batches| encode_note(batches) == note).unwrap_or(0),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
        Err(error) => return Err(error),
    };
    Ok((file, batches))
}

fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        sled::Error::Corruption { .. } => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        error => io::Error::other(error.to_string()),
    }
}
