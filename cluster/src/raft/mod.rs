//! The replicated log: openraft on this project's storage, checkpoints and links.
//!
//! Invariants: what a quorum has acknowledged is durable on it; what cannot be read back is refused;
//! a fatal error stops Raft with a word on what to do, and the process has to end with it.

mod bodies;
mod checkpoint;
pub mod codec;
mod config;
mod housekeeping;
mod log;
mod network;
mod runtime;
mod state_machine;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trusted;
mod types;

use std::io;
use std::sync::{Arc, RwLock};

pub use bodies::Bodies;
pub use checkpoint::Checkpoint;
pub use config::config;
pub use housekeeping::keep_log_bounded;
pub use log::{LogReader, LogRecord, LogStore, entry_index, read_record};
pub use network::{Client, Network, decode_append, network, serve_raft};
pub use openraft::{EntryPayload, Membership};
pub use runtime::ClockRuntime;
pub use state_machine::{ApplySink, CheckpointEvery, SnapshotBuilder, StateMachine};
pub(crate) use trusted::Trusted;
pub use types::{Applied, Entry, LeaderId, LogId, Member, Payload, SnapshotMeta, StoredMembership, TypeConfig, Vote};

use self::codec::{Damaged, DecodeError};
use crate::env::Env;
use crate::state::State;

/// Raft, as this project uses it.
pub type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Why a node's data could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log, the vote or what goes with them.
    #[error("the log cannot be opened: {0}")]
    Log(#[source] io::Error),
    /// The state's last checkpoint.
    #[error("the last checkpoint cannot be loaded: {0}")]
    Checkpoint(#[source] io::Error),
}

/// A node's data, opened.
pub struct Storage {
    /// For openraft.
    pub log: LogStore,
    /// For openraft.
    pub machine: StateMachine,
    /// The state; written only by the machine.
    pub state: Arc<RwLock<State>>,
    /// Bodies that are not in memory.
    pub bodies: Bodies,
}

/// Opens a node's data: the state is the last checkpoint's, and openraft applies the log since.
///
/// # Errors
/// When it cannot be read, or is damaged; see [`codec::Damaged`].
pub async fn open(env: &Env, sink: Arc<dyn ApplySink>, every: CheckpointEvery) -> Result<Storage, OpenError> {
    let log = LogStore::open(env.kv.clone()).await.map_err(OpenError::Log)?;
    let (store, state) = checkpoint::Store::open(env.blobs.clone()).await.map_err(OpenError::Checkpoint)?;
    let covered = store.current().and_then(|checkpoint| checkpoint.manifest.last_log_id);
    if log.purged().map(|id| id.index) > covered.map(|id| id.index) {
        let why = "the one before it is whole, but the log since then has been purged".to_owned();
        let error = Damaged::io("the newest checkpoint", DecodeError::Malformed(why));
        return Err(OpenError::Checkpoint(error));
    }
    let state = Arc::new(RwLock::new(state));
    let machine = StateMachine::new(Arc::new(store), state.clone(), sink, every);
    Ok(Storage { log, machine, state, bodies: Bodies::new(env.blobs.clone()) })
}
