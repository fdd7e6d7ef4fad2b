//! Answering Raft's messages.
//!
//! Invariant: while a checkpoint is being installed no append is under way, and none begins.
//! openraft (0.10.0-alpha.37) forgets a snapshot's log ids as soon as it learns of the snapshot, but
//! takes over its position only when the command's turn comes; if its queue is held up by an append
//! that waits for the disk, it looks up a forgotten log id in between and panics (its issue 2116).

use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::receive::Receiver;
use super::wire::{SnapshotCall, decode, decode_append, decode_with, encode};
use crate::peer::Kind;
use crate::raft::Raft;
use crate::raft::types::TypeConfig;

/// Keeps appends and installations apart, and what receives checkpoints. One per Raft.
#[derive(Clone, Default)]
pub(super) struct Door(Arc<Inside>);

#[derive(Default)]
struct Inside {
    gate: RwLock<()>,
    receiver: OnceCell<Arc<Receiver>>,
}

impl Door {
    async fn append(&self) -> RwLockReadGuard<'_, ()> {
        // Without a wait if possible: appends are started in the order they came.
        match self.0.gate.try_read() {
            Ok(pass) => pass,
            Err(_) => self.0.gate.read().await,
        }
    }

    pub(super) async fn install(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.gate.write().await
    }

    async fn receiver(&self, raft: &Raft) -> Result<Arc<Receiver>, String> {
        let receiver = self.0.receiver.get_or_try_init(|| async {
            let store = raft.with_state_machine(|machine| {
                let store = machine.checkpoints();
                Box::pin(async move { store })
            });
            store.await.map(Receiver::new).map_err(|error| error.to_string())
        });
        receiver.await.cloned()
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Answers one message of another node's Raft: [`Kind::APPEND`], [`Kind::VOTE`],
/// [`Kind::PRE_VOTE`], [`Kind::SNAPSHOT`], [`Kind::TRANSFER`].
///
/// # Errors
/// When the message is malformed or Raft has stopped; a reason for the other node's log.
pub async fn serve_raft(raft: &Raft, kind: Kind, body: Bytes) -> Result<Bytes, String> {
    match kind {
        Kind::APPEND => {
            let rpc = decode_append(&body).map_err(text)?;
            let door = raft.extensions().get::<Door>();
            let _pass = door.append().await;
            raft.append_entries(rpc).await.map(|answer| encode(&answer)).map_err(text)
        }
        Kind::VOTE => {
            let rpc: VoteRequest<TypeConfig> = decode(&body).map_err(text)?;
            raft.vote(rpc).await.map(|answer| encode(&answer)).map_err(text)
        }
        Kind::PRE_VOTE => {
            let rpc: VoteRequest<TypeConfig> = decode(&body).map_err(text)?;
            raft.pre_vote(rpc).await.map(|answer| encode(&answer)).map_err(text)
        }
        Kind::TRANSFER => {
            let rpc: TransferLeaderRequest<TypeConfig> = decode(&body).map_err(text)?;
            raft.handle_transfer_leader(rpc).await.map(|answer| encode(&answer)).map_err(text)
        }
        Kind::SNAPSHOT => {
            let (call, piece): (SnapshotCall, Bytes) = decode_with(&body).map_err(text)?;
            let door = raft.extensions().get::<Door>();
            let receiver = door.receiver(raft).await?;
            let reply = receiver.take(raft, &door, call, piece).await;
            reply.map(|reply| encode(&reply)).map_err(text)
        }
        Kind(other) => Err(format!("{other} is no kind of Raft message")),
    }
}
