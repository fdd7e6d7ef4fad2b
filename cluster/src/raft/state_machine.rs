//! Applies the log to the state, and tells the node what that means.
//!
//! Invariant: each entry is applied once, in order, and its effects are handed on in that order
//! after the state's lock was released. An entry that this build cannot read stops the node.

use std::io;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::checkpoint::{Build, Checkpoint, Frame, Store};
use super::types::{Applied, Entry, LeaderId, LogId, Member, Payload, SnapshotMeta, StoredMembership, TypeConfig};
use crate::env::clock;
use crate::id::NodeId;
use crate::state::{Command, Effect, State};

/// Learns what was applied on this node. Called from the task that applies, so it must not block.
pub trait ApplySink: Send + Sync + 'static {
    /// The entry at `at` was applied; for entries without a command there are no effects.
    fn applied(&self, at: &LogId, effects: Vec<Effect>);

    /// A checkpoint was made, in so much time.
    fn checkpointed(&self, _took: Duration) {}

    /// The state up to `index` came from another replica: effects up to there are not told.
    fn installed(&self, index: u64);
}

/// When a checkpoint is made.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointEvery {
    /// Log entries since the last one.
    pub entries: u64,
    /// Bytes of commands since the last one: about what is replayed after a restart, and held in
    /// memory of bodies that nobody fetches.
    pub bytes: u64,
}

impl Default for CheckpointEvery {
    fn default() -> Self {
        Self { entries: 10_000, bytes: 64 << 20 }
    }
}

/// openraft's view of the state.
pub struct StateMachine {
    state: Arc<RwLock<State>>,
    store: Arc<Store>,
    sink: Arc<dyn ApplySink>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    every: CheckpointEvery,
    /// Since the last checkpoint was begun.
    entries: u64,
    bytes: u64,
}

impl StateMachine {
    pub(crate) fn new(
        store: Arc<Store>,
        state: Arc<RwLock<State>>,
        sink: Arc<dyn ApplySink>,
        every: CheckpointEvery,
    ) -> Self {
        let current = store.current();
        let (last_applied, membership) = current
            .map(|current| (current.manifest.last_log_id, current.manifest.membership.clone()))
            .unwrap_or_default();
        Self { state, store, sink, last_applied, membership, every, entries: 0, bytes: 0 }
    }

    pub(crate) fn checkpoints(&self) -> Arc<Store> {
        self.store.clone()
    }

    fn apply_one(&mut self, entry: &Entry) -> io::Result<Vec<Effect>> {
        let index = entry.log_id.index;
        let mut effects = Vec::new();
        match &entry.payload {
            EntryPayload::Normal(Payload(bytes)) => {
                let command = Command::decode(bytes).map_err(|error| {
                    let text = format!("the log entry {index} cannot be applied, so this node stops: {error}");
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?;
                self.state.write().expect("the state is not used after a panic in it").apply(
                    index,
                    &command,
                    &mut effects,
                );
                self.bytes += bytes.len() as u64;
            }
            payload => {
                if let EntryPayload::Membership(membership) = payload {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                }
                self.state.write().expect("the state is not used after a panic in it").note_applied(index);
            }
        }
        self.last_applied = Some(entry.log_id);
        self.entries += 1;
        Ok(effects)
    }

    fn snapshot(checkpoint: Checkpoint) -> Snapshot<LeaderId, NodeId, Member, Checkpoint> {
        Snapshot { meta: checkpoint.manifest.meta(), snapshot: checkpoint }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Checkpoint;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let effects = self.apply_one(&entry)?;
            self.sink.applied(&entry.log_id, effects);
            if let Some(responder) = responder {
                responder.send(Applied(()));
            }
            // A long log is replayed without a wait in it; let the node's other tasks run.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        let due = self.entries >= self.every.entries || self.bytes >= self.every.bytes;
        if !force && !due {
            return None;
        }
        (self.entries, self.bytes) = (0, 0);
        let frame = Frame::take(&self.store, &self.state, self.last_applied, self.membership.clone());
        let build = Build { store: self.store.clone(), state: self.state.clone(), frame };
        Some(SnapshotBuilder { build: Some(build), sink: self.sink.clone() })
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.try_create_snapshot_builder(true).await.expect("forced")
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Checkpoint) -> io::Result<()> {
        let manifest = snapshot.manifest.clone();
        if manifest.meta() != *meta {
            return Err(io::Error::other("a snapshot whose contents are not what its description says"));
        }
        let state = self.state.clone();
        let adopt = |restored| *state.write().expect("the state is not used after a panic in it") = restored;
        self.store.take_over(&snapshot, adopt).await?;
        self.last_applied = manifest.last_log_id;
        self.membership = manifest.membership.clone();
        (self.entries, self.bytes) = (0, 0);
        self.sink.installed(manifest.last_log_id.map_or(0, |log_id| log_id.index));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<LeaderId, NodeId, Member, Checkpoint>>> {
        Ok(self.store.current().map(Self::snapshot))
    }
}

/// Builds one checkpoint, of the moment it was made at.
pub struct SnapshotBuilder {
    build: Option<Build>,
    sink: Arc<dyn ApplySink>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Checkpoint;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<LeaderId, NodeId, Member, Checkpoint>> {
        let build = self.build.take().ok_or_else(|| io::Error::other("a builder builds once"))?;
        let began = clock::now();
        let checkpoint = build.run().await?;
        self.sink.checkpointed(began.elapsed());
        Ok(StateMachine::snapshot(checkpoint))
    }
}
