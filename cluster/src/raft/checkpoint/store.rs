//! The checkpoints of one replica: loading, taking over, cleaning up.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;

use super::Checkpoint;
use super::manifest::{BlobRef, Manifest, ShardRef, blob_id, blob_name, manifest_name, manifest_number};
use crate::env::Blobs;
use crate::raft::codec::{Damaged, DecodeError};
use crate::state::{Shard, State};
use crate::sync::lock;

/// Bytes copied at once from one replica's blobs to another's.
const COPY_BYTES: u64 = 1 << 20;

struct Inner {
    /// The current manifest and its number.
    current: Option<(u64, Arc<Manifest>)>,
    /// The highest number in use.
    number: u64,
    /// Manifests that somebody may still be reading by, besides the current one.
    in_use: Vec<Weak<Manifest>>,
    /// Grows when a checkpoint of another replica takes the place of this one's state.
    takeovers: u64,
}

/// This replica's checkpoints.
pub(crate) struct Store {
    pub(super) blobs: Arc<dyn Blobs>,
    inner: Mutex<Inner>,
    /// Held while the current manifest is being replaced.
    replacing: tokio::sync::Mutex<()>,
}

fn damaged(what: String, why: impl ToString) -> io::Error {
    Damaged::io(what, DecodeError::Malformed(why.to_string()))
}

impl Store {
    /// Finds the newest whole manifest and loads its state; a new replica has none.
    pub async fn open(blobs: Arc<dyn Blobs>) -> io::Result<(Self, State)> {
        let mut numbers: Vec<u64> = blobs.list().await?.iter().filter_map(|name| manifest_number(name)).collect();
        numbers.sort_unstable();
        let mut current = None;
        let mut failed = None;
        for number in numbers.iter().rev() {
            match read_manifest(&*blobs, *number).await {
                Ok(manifest) => {
                    current = Some((*number, Arc::new(manifest)));
                    break;
                }
                Err(error) => {
                    // An older one with the log since is as good, if both are still there.
                    tracing::error!(%error, "a checkpoint is damaged");
                    failed.get_or_insert(error);
                }
            }
        }
        let state = match (&current, failed) {
            (None, Some(error)) => return Err(error),
            (None, None) => State::new(),
            (Some((_, manifest)), _) => load(&*blobs, manifest).await?,
        };
        let number = numbers.last().copied().unwrap_or(0);
        let inner = Inner { current, number, in_use: Vec::new(), takeovers: 0 };
        let store = Self { blobs, inner: Mutex::new(inner), replacing: tokio::sync::Mutex::default() };
        store.clean().await;
        Ok((store, state))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics between the first and the last change made under this lock.
        lock(&self.inner)
    }

    /// The newest checkpoint, kept from being deleted for as long as the handle lives.
    pub fn current(&self) -> Option<Checkpoint> {
        let (_, manifest) = self.inner().current.clone()?;
        Some(self.hold(manifest))
    }

    /// A handle that keeps the manifest's blobs.
    pub fn hold(&self, manifest: Arc<Manifest>) -> Checkpoint {
        self.inner().in_use.push(Arc::downgrade(&manifest));
        Checkpoint { manifest, blobs: self.blobs.clone() }
    }

    /// How often another replica's checkpoint has taken the place of this one's state.
    pub fn takeovers(&self) -> u64 {
        self.inner().takeovers
    }

    /// Makes `manifest`, whose blobs are durable, the current one, unless there was a takeover
    /// since `takeovers`. `adopt` runs in between, before anything is deleted and undisturbed by
    /// other replacements.
    pub async fn replace(
        &self,
        manifest: Arc<Manifest>,
        takeovers: u64,
        adopt: impl Future<Output = ()>,
    ) -> io::Result<bool> {
        let _replacing = self.replacing.lock().await;
        let number = {
            let mut inner = self.inner();
            if inner.takeovers != takeovers {
                return Ok(false);
            }
            inner.number += 1;
            inner.number
        };
        self.blobs.put(&manifest_name(number), vec![manifest.encode()]).await?;
        // The previous blobs stay until the next time, for those who are reading bodies right now.
        let previous = self.inner().current.replace((number, manifest));
        if let Some((_, previous)) = &previous {
            self.inner().in_use.push(Arc::downgrade(previous));
        }
        adopt.await;
        self.clean().await;
        Ok(true)
    }

    /// Takes over a checkpoint of another replica: copies what is not here, loads the state, and
    /// hands it to `adopt` once the manifest is durable.
    pub async fn take_over(&self, checkpoint: &Checkpoint, adopt: impl FnOnce(State)) -> io::Result<()> {
        let manifest = checkpoint.manifest.clone();
        // From now on nothing that is being built of the old state may become current.
        let takeovers = {
            let mut inner = self.inner();
            inner.takeovers += 1;
            inner.takeovers
        };
        let (held, missing) = self.expect(manifest.clone()).await?;
        for (id, blob) in missing {
            copy(&*checkpoint.blobs, self, id, &blob).await?;
        }
        let state = load(&*self.blobs, &manifest).await?;
        self.replace(manifest, takeovers, async { adopt(state) }).await?;
        drop(held);
        Ok(())
    }

    /// Announces that `manifest`'s blobs are coming: keeps those that are here, and tells which
    /// are not.
    pub async fn expect(&self, manifest: Arc<Manifest>) -> io::Result<(Checkpoint, Vec<(u64, BlobRef)>)> {
        // Under this lock, so that nothing found here is being deleted at the same time.
        let _replacing = self.replacing.lock().await;
        let held = self.hold(manifest.clone());
        let mut missing = Vec::new();
        for (id, blob) in &manifest.blobs {
            // What is here was checked when it came, and ids are never used twice.
            if self.blobs.len(&blob_name(*id)).await? != Some(blob.len) {
                missing.push((*id, *blob));
            }
        }
        Ok((held, missing))
    }

    /// Stores a blob that came from another replica, if it is what its manifest says.
    pub async fn put_checked(&self, id: u64, blob: &BlobRef, parts: Vec<Bytes>) -> io::Result<()> {
        let mut crc = crc32fast::Hasher::new();
        let mut len = 0;
        for part in &parts {
            crc.update(part);
            len += part.len() as u64;
        }
        if len != blob.len || crc.finalize() != blob.crc {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} came damaged", blob_name(id))));
        }
        self.blobs.put(&blob_name(id), parts).await
    }

    /// Deletes manifests but the current one, and blobs that no manifest in use refers to. What
    /// cannot be deleted now is tried again next time.
    async fn clean(&self) {
        let (keep, number) = {
            let mut inner = self.inner();
            let mut keep: BTreeSet<u64> = BTreeSet::new();
            if let Some((_, manifest)) = &inner.current {
                keep.extend(manifest.blobs.keys());
            }
            inner.in_use.retain(|manifest| match manifest.upgrade() {
                Some(manifest) => {
                    keep.extend(manifest.blobs.keys());
                    true
                }
                None => false,
            });
            (keep, inner.current.as_ref().map(|(number, _)| *number))
        };
        let result: io::Result<()> = async {
            for name in self.blobs.list().await? {
                let dead = blob_id(&name).is_some_and(|id| !keep.contains(&id))
                    || manifest_number(&name).is_some_and(|found| number.is_some_and(|number| found != number));
                if dead {
                    self.blobs.delete(&name).await?;
                }
            }
            Ok(())
        }
        .await;
        if let Err(error) = result {
            tracing::warn!(%error, "what old checkpoints left could not be deleted");
        }
    }
}

async fn copy(from: &dyn Blobs, to: &Store, id: u64, blob: &BlobRef) -> io::Result<()> {
    let mut parts = Vec::new();
    for start in (0..blob.len).step_by(COPY_BYTES as usize) {
        parts.push(from.read(&blob_name(id), start..blob.len.min(start + COPY_BYTES)).await?);
    }
    to.put_checked(id, blob, parts).await
}

async fn read_manifest(blobs: &dyn Blobs, number: u64) -> io::Result<Manifest> {
    let name = manifest_name(number);
    let len = blobs.len(&name).await?.unwrap_or(0);
    let record = blobs.read(&name, 0..len).await?;
    Manifest::decode(&record).map_err(|error| Damaged::io(format!("the checkpoint {name}"), error))
}

async fn load(blobs: &dyn Blobs, manifest: &Manifest) -> io::Result<State> {
    for (id, blob) in &manifest.blobs {
        let name = blob_name(*id);
        let len = blobs.len(&name).await?;
        if len != Some(blob.len) {
            return Err(damaged(format!("the checkpoint's {name}"), "it is missing or has another length"));
        }
    }
    let mut shards = Vec::with_capacity(manifest.shards.len());
    for (id, shard) in &manifest.shards {
        shards.push((*id as usize, load_shard(blobs, *id, shard).await?));
        tokio::task::yield_now().await;
    }
    State::restore(&manifest.head, shards).map_err(|error| damaged("the checkpoint".into(), error))
}

async fn load_shard(blobs: &dyn Blobs, id: u32, shard: &ShardRef) -> io::Result<Shard> {
    let what = || format!("the checkpoint's shard {id} in {}", blob_name(shard.blob));
    let section = blobs.read(&blob_name(shard.blob), shard.offset..shard.offset + shard.len).await?;
    if crc32fast::hash(&section) != shard.crc {
        return Err(Damaged::io(what(), DecodeError::Checksum));
    }
    Shard::decode(&section).map_err(|error| damaged(what(), error))
}
