//! Receiving a checkpoint.
//!
//! Invariant: at most one transfer is under way and at most one object of it in memory; a blob is
//! stored only when it is what its manifest says; nothing of it counts before all of it is there.

use crate::env::tasks;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use openraft::Snapshot;

use super::serve::Door;
use super::wire::{SnapshotCall, SnapshotReply, invalid};
use crate::env::clock::{self, Instant};
use crate::raft::Raft;
use crate::raft::checkpoint::{Checkpoint, Manifest, Store};
use crate::raft::codec::DecodeError;
use crate::raft::types::Vote;

/// A manifest or blob of more than this is refused.
const MAX_OBJECT: u64 = 1 << 30;
/// A transfer from which nothing comes for this long is forgotten.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something that comes in pieces.
struct Object {
    len: u64,
    parts: Vec<Bytes>,
    at: u64,
}

impl Object {
    fn new(len: u64) -> io::Result<Self> {
        if len > MAX_OBJECT {
            return Err(invalid(DecodeError::Malformed(format!("a checkpoint's part of {len} bytes"))));
        }
        Ok(Self { len, parts: Vec::new(), at: 0 })
    }

    /// Takes the piece if it is the next one. Tells where it is now.
    fn add(&mut self, offset: u64, piece: Bytes) -> io::Result<u64> {
        if offset == self.at && !piece.is_empty() {
            self.at += piece.len() as u64;
            self.parts.push(piece);
        }
        if self.at > self.len {
            return Err(invalid(DecodeError::Malformed("more bytes than announced".into())));
        }
        Ok(self.at)
    }

    fn is_whole(&self) -> bool {
        self.at == self.len
    }
}

/// One transfer.
struct Incoming {
    transfer: u64,
    vote: Vote,
    manifest: Object,
    manifest_crc: u32,
    /// Keeps what came, once the manifest is there.
    held: Option<Checkpoint>,
    /// The blobs still to come.
    missing: BTreeMap<u64, crate::raft::checkpoint::BlobRef>,
    blob: Option<(u64, Object)>,
    touched: Instant,
}

/// Takes in what other replicas send.
pub(super) struct Receiver {
    store: Arc<Store>,
    incoming: tokio::sync::Mutex<Option<Incoming>>,
}

impl Receiver {
    pub(super) fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self { store, incoming: tokio::sync::Mutex::default() })
    }

    /// Takes one step of a transfer.
    pub(super) async fn take(
        self: &Arc<Self>,
        raft: &Raft,
        door: &Door,
        call: SnapshotCall,
        piece: Bytes,
    ) -> io::Result<SnapshotReply> {
        let mut slot = self.incoming.lock().await;
        let transfer = match call {
            SnapshotCall::Begin { transfer, vote, len, crc } => {
                return self.begin(raft, &mut slot, Begin { transfer, vote, len, crc }).await;
            }
            SnapshotCall::Chunk { transfer, .. }
            | SnapshotCall::Missing { transfer }
            | SnapshotCall::End { transfer } => transfer,
        };
        let Some(incoming) = slot.as_mut().filter(|incoming| incoming.transfer == transfer) else {
            return Ok(SnapshotReply::Unknown);
        };
        incoming.touched = clock::now();
        match call {
            SnapshotCall::Chunk { blob: None, offset, .. } => {
                self.manifest(incoming, offset, piece).await.map(SnapshotReply::At)
            }
            SnapshotCall::Chunk { blob: Some(id), offset, .. } => {
                self.blob(incoming, id, offset, piece).await.map(SnapshotReply::At)
            }
            SnapshotCall::Missing { .. } => Ok(SnapshotReply::Missing(incoming.missing.keys().copied().collect())),
            SnapshotCall::End { .. } | SnapshotCall::Begin { .. } => {
                // Installed or not, this transfer is over; a repeated `End` waits here for the lock.
                let Some(Incoming { vote, held: Some(held), missing, .. }) = slot.take() else {
                    return Ok(SnapshotReply::Unknown);
                };
                if !missing.is_empty() {
                    return Ok(SnapshotReply::Unknown);
                }
                install(raft, door, vote, held).await.map(SnapshotReply::Done)
            }
        }
    }

    async fn begin(
        self: &Arc<Self>,
        raft: &Raft,
        slot: &mut Option<Incoming>,
        begin: Begin,
    ) -> io::Result<SnapshotReply> {
        let mine = raft.with_raft_state(|state| *state.vote_ref()).await.map_err(io::Error::other)?;
        if mine > begin.vote {
            return Ok(SnapshotReply::Done(mine));
        }
        let incoming = Incoming {
            transfer: begin.transfer,
            vote: begin.vote,
            manifest: Object::new(begin.len)?,
            manifest_crc: begin.crc,
            held: None,
            missing: BTreeMap::new(),
            blob: None,
            touched: clock::now(),
        };
        if slot.replace(incoming).is_none() {
            tasks::spawn(forget_when_idle(Arc::downgrade(self)));
        }
        Ok(SnapshotReply::At(0))
    }

    async fn manifest(&self, incoming: &mut Incoming, offset: u64, piece: Bytes) -> io::Result<u64> {
        let at = incoming.manifest.add(offset, piece)?;
        if incoming.manifest.is_whole() && incoming.held.is_none() {
            let record: Bytes = std::mem::take(&mut incoming.manifest.parts).concat().into();
            if crc32fast::hash(&record) != incoming.manifest_crc {
                return Err(invalid(DecodeError::Checksum));
            }
            let manifest = Manifest::decode(&record).map_err(invalid)?;
            let (held, missing) = self.store.expect(Arc::new(manifest)).await?;
            incoming.held = Some(held);
            incoming.missing = missing.into_iter().collect();
        }
        Ok(at)
    }

    async fn blob(&self, incoming: &mut Incoming, id: u64, offset: u64, piece: Bytes) -> io::Result<u64> {
        let Some(blob) = incoming.missing.get(&id).copied() else {
            // It came before; the answer was lost.
            let known = incoming.held.as_ref().and_then(|held| held.manifest.blobs.get(&id));
            return known.map(|blob| blob.len).ok_or_else(|| io::Error::other("a blob that nobody asked for"));
        };
        if incoming.blob.as_ref().is_none_or(|(current, _)| *current != id) {
            incoming.blob = Some((id, Object::new(blob.len)?));
        }
        let Some((_, object)) = &mut incoming.blob else { unreachable!("set just above") };
        let at = object.add(offset, piece)?;
        if object.is_whole() {
            let parts = std::mem::take(&mut object.parts);
            incoming.blob = None;
            self.store.put_checked(id, &blob, parts).await?;
            incoming.missing.remove(&id);
        }
        Ok(at)
    }
}

struct Begin {
    transfer: u64,
    vote: Vote,
    len: u64,
    crc: u32,
}

/// Hands a whole checkpoint to openraft.
async fn install(raft: &Raft, door: &Door, vote: Vote, checkpoint: Checkpoint) -> io::Result<Vote> {
    let snapshot = Snapshot { meta: checkpoint.manifest.meta(), snapshot: checkpoint };
    let _alone = door.install().await;
    let answer = raft.install_full_snapshot(vote, snapshot).await.map_err(io::Error::other)?;
    Ok(answer.vote)
}

/// Forgets a transfer whose sender is gone; what came of it is deleted at the next checkpoint.
async fn forget_when_idle(receiver: Weak<Receiver>) {
    loop {
        clock::sleep(PATIENCE).await;
        let Some(receiver) = receiver.upgrade() else { return };
        let mut slot = receiver.incoming.lock().await;
        if slot.as_ref().is_none_or(|incoming| incoming.touched.elapsed() >= PATIENCE) {
            *slot = None;
            return;
        }
    }
}
