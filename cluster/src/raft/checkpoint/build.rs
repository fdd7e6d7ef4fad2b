//! Making a checkpoint: an instant's freeze, then everything slow beside the running node.
//!
//! Invariant: what is written is the state after exactly one log entry, however long it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, RwLock};

use super::Checkpoint;
use super::blob::{BlobWriter, stored_bytes};
use super::manifest::{Manifest, ShardRef};
use super::store::Store;
use crate::id::Pos;
use crate::raft::bodies::Bodies;
use crate::raft::types::{LogId, StoredMembership};
use crate::state::{Frozen, Shard, State, Stored};

/// A checkpoint copies at most this many live bytes out of blobs that are mostly dead.
const MOVE_BYTES: u64 = 64 << 20;
/// More blobs than this are merged, the smallest first.
const MAX_BLOBS: usize = 64;

/// What a checkpoint is made of, as it was after one log entry.
pub(crate) struct Frame {
    frozen: Frozen,
    last_log_id: Option<LogId>,
    membership: StoredMembership,
    base: Option<Checkpoint>,
    /// Blobs whose live part is written anew, so that they can go.
    moving: BTreeSet<u64>,
    takeovers: u64,
}

impl Frame {
    /// Freezes the state. Nothing may be applied meanwhile; takes time in the number of shards.
    pub fn take(
        store: &Store,
        state: &RwLock<State>,
        last_log_id: Option<LogId>,
        membership: StoredMembership,
    ) -> Self {
        let base = store.current();
        let moving = base.as_ref().map(|base| worth_moving(&base.manifest)).unwrap_or_default();
        let takeovers = store.takeovers();
        let mut state = write(state);
        if let Some(base) = &base {
            for shard in base.manifest.users_of(&moving) {
                state.mark_dirty(shard);
            }
        }
        Self { frozen: state.freeze(), last_log_id, membership, base, moving, takeovers }
    }
}

fn write(state: &RwLock<State>) -> std::sync::RwLockWriteGuard<'_, State> {
    state.write().expect("the state is not used after a panic in it")
}

/// The blobs that cost more to keep than to rewrite: those half dead, and the smallest of too many.
fn worth_moving(manifest: &Manifest) -> BTreeSet<u64> {
    let live = manifest.live();
    let mut candidates: Vec<(u64, u64, bool)> = manifest
        .blobs
        .iter()
        .map(|(id, blob)| {
            let live = live.get(id).copied().unwrap_or(0);
            (live, *id, live < blob.len / 2)
        })
        .collect();
    candidates.sort_unstable();
    let mut surplus = candidates.len().saturating_sub(MAX_BLOBS);
    let mut budget = MOVE_BYTES;
    let mut moving = BTreeSet::new();
    for (live, id, half_dead) in candidates {
        if (half_dead || surplus > 0) && live <= budget {
            budget -= live;
            surplus = surplus.saturating_sub(1);
            moving.insert(id);
        }
    }
    moving
}

/// A shard that was written: where it is now, and where its bodies went.
struct Written {
    section: ShardRef,
    put: Vec<(Pos, Stored)>,
}

/// A checkpoint in the making.
pub(crate) struct Build {
    pub store: Arc<Store>,
    pub state: Arc<RwLock<State>>,
    pub frame: Frame,
}

impl Build {
    /// Writes the checkpoint and makes it the current one. When another replica's state was taken
    /// over meanwhile, that is the one returned.
    pub async fn run(self) -> io::Result<Checkpoint> {
        let Self { store, state, mut frame } = self;
        let shards = std::mem::take(&mut frame.frozen.shards);
        let ids: Vec<usize> = shards.iter().map(|(id, _)| *id).collect();
        let error = match write_out(&store, &state, frame, shards).await {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(error) => error,
        };
        {
            // What was frozen is written nowhere: the next checkpoint has to.
            let mut state = write(&state);
            for id in ids {
                state.mark_dirty(id);
            }
        }
        match store.current() {
            // The node can go on for as long as there is room for its log.
            Some(previous) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::error!(%error, "there is no room for a checkpoint; the previous one stays");
                Ok(previous)
            }
            _ => Err(error),
        }
    }
}

async fn write_out(
    store: &Store,
    state: &RwLock<State>,
    frame: Frame,
    frozen: Vec<(usize, Arc<Shard>)>,
) -> io::Result<Checkpoint> {
    let base = frame.base.as_ref().map(|base| &*base.manifest);
    let mut shards = base.map(|base| base.shards.clone()).unwrap_or_default();
    let mut writer = BlobWriter::new(store.blobs.clone());
    let mut moved = Vec::with_capacity(frozen.len());
    for (id, shard) in frozen {
        let written = write_shard(store, &mut writer, &shard, &frame.moving).await?;
        shards.insert(u32::try_from(id).expect("few shards"), written.section);
        moved.push((id, written.put));
        // Let go of it before the state changes it the next time, or it is copied for that.
        drop(shard);
        tokio::task::yield_now().await;
    }
    let mut blobs = writer.finish().await?;
    blobs.extend(base.into_iter().flat_map(|base| &base.blobs));
    let mut manifest = Manifest {
        last_log_id: frame.last_log_id,
        membership: frame.membership,
        head: frame.frozen.head,
        shards,
        blobs,
    };
    let live = manifest.live();
    manifest.blobs.retain(|id, _| live.contains_key(id));
    let manifest = Arc::new(manifest);
    let checkpoint = store.hold(manifest.clone());
    let relocate = async {
        for (id, bodies) in moved {
            write(state).evict(id, &bodies);
            tokio::task::yield_now().await;
        }
    };
    if store.replace(manifest, frame.takeovers, relocate).await? {
        return Ok(checkpoint);
    }
    store.current().ok_or_else(|| io::Error::other("a checkpoint was taken over and is gone"))
}

async fn write_shard(
    store: &Store,
    writer: &mut BlobWriter,
    shard: &Shard,
    moving: &BTreeSet<u64>,
) -> io::Result<Written> {
    let mut put = BTreeMap::new();
    let mut usage: BTreeMap<u64, u64> = BTreeMap::new();
    for (pos, body) in shard.memory_bodies() {
        put.insert(pos, writer.body(body).await?);
    }
    let (to_move, staying): (Vec<_>, Vec<_>) =
        shard.stored_bodies().into_iter().partition(|(_, stored)| moving.contains(&stored.blob));
    if !to_move.is_empty() {
        let places: Vec<Stored> = to_move.iter().map(|(_, stored)| *stored).collect();
        let bodies = Bodies::new(store.blobs.clone()).read_many(&places).await?;
        for ((pos, _), body) in to_move.iter().zip(bodies) {
            put.insert(*pos, writer.body(body).await?);
        }
    }
    for stored in put.values().chain(staying.iter().map(|(_, stored)| stored)) {
        *usage.entry(stored.blob).or_default() += stored_bytes(stored);
    }
    let section = writer.section(shard.encode(&put), usage).await?;
    Ok(Written { section, put: put.into_iter().collect() })
}
