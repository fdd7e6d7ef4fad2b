//! openraft's own storage suite on this storage, and what it does not ask.

use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};

use super::testing::script::Script;
use super::testing::{MemBlobs, MemKv, NoSink, env};
use super::{LogStore, Payload, StateMachine, Storage, TypeConfig, open};

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, StateMachine> for InMemory {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let env = env(MemKv::new(), MemBlobs::new());
        let Storage { log, machine, .. } = open(&env, Arc::new(NoSink)).await.expect("opens");
        Ok(((), log, machine))
    }
}

#[tokio::test]
async fn passes_openrafts_storage_suite() {
    Suite::test_all(InMemory).await.expect("the suite passes");
}

#[tokio::test]
async fn a_command_of_a_newer_build_stops_the_node_with_a_clear_word() {
    let (_, mut machine) = InMemory.build().await.map(|(_, log, machine)| (log, machine)).expect("opens");
    let (_, mut entry) = Script::new();
    entry.payload = EntryPayload::Normal(Payload(Bytes::from_static(b"\x63 of the future")));
    let entries = futures_util::stream::iter([Ok((entry, None))]);
    let error = machine.apply(entries).await.expect_err("refused").to_string();
    assert!(error.contains("log entry 1") && error.contains("run the newer build"), "{error}");
}

#[tokio::test]
async fn a_log_without_the_checkpoint_that_it_was_purged_for_is_refused() {
    let (kv, blobs) = (MemKv::new(), MemBlobs::new());
    let Storage { mut log, .. } = open(&env(kv.clone(), blobs.clone()), Arc::new(NoSink)).await.expect("opens");
    let (_, entry) = Script::new();
    log.blocking_append([entry.clone()]).await.expect("appended");
    log.purge(entry.log_id).await.expect("purged");
    let reopened = open(&env(kv, blobs), Arc::new(NoSink)).await;
    let error = reopened.err().expect("refused").to_string();
    assert!(error.contains("the newest checkpoint") && error.contains("empty its data directory"), "{error}");
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_it_says_is_refused() {
    let (_, _, mut one) = InMemory.build().await.expect("opens");
    let (_, up) = Script::new();
    one.apply(futures_util::stream::iter([Ok((up, None))])).await.expect("applied");
    let mut builder = one.get_snapshot_builder().await;
    let Snapshot { mut meta, snapshot } =
        openraft::RaftSnapshotBuilder::build_snapshot(&mut builder).await.expect("written");
    meta.last_log_id = None;
    let (_, _, mut other) = InMemory.build().await.expect("opens");
    other.install_snapshot(&meta, snapshot).await.expect_err("refused");
}
