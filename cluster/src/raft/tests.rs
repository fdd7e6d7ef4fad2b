//! openraft's own storage suite on this storage, and what it does not ask.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};

use super::testing::cluster::{Setup, TestCluster, Writer};
use super::testing::script::Script;
use super::testing::{MemBlobs, MemKv, NoSink, env};
use super::{CheckpointEvery, LogStore, Payload, StateMachine, Storage, TypeConfig, keep_log_bounded, open};
use crate::env::clock;

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, StateMachine> for InMemory {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let env = env(MemKv::new(), MemBlobs::new());
        let Storage { log, machine, .. } =
            open(&env, Arc::new(NoSink), CheckpointEvery::default()).await.expect("opens");
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
    let Storage { mut log, .. } =
        open(&env(kv.clone(), blobs.clone()), Arc::new(NoSink), CheckpointEvery::default()).await.expect("opens");
    let (_, entry) = Script::new();
    log.blocking_append([entry.clone()]).await.expect("appended");
    log.purge(entry.log_id).await.expect("purged");
    let reopened = open(&env(kv, blobs), Arc::new(NoSink), CheckpointEvery::default()).await;
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

#[tokio::test(start_paused = true)]
async fn the_log_behind_a_checkpoint_is_bounded_in_bytes() {
    const KEPT: u64 = 1 << 20;
    let every = CheckpointEvery { entries: 1, bytes: 1 };
    let cluster = TestCluster::start(1, Setup { every, ..Setup::default() }).await;
    let node = &cluster.nodes[0];
    tokio::spawn(keep_log_bounded(node.raft.clone(), node.log.clone(), KEPT));
    let mut writer = Writer::new(node.raft.clone()).await;
    let session = writer.script.register(0..1);
    writer.write(session).await;
    for _ in 0..40 {
        let large = writer.script.send(0..1, 1, 100 << 10);
        writer.write(large).await;
    }
    clock::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.log.purged(), None, "nothing is purged that no checkpoint covers");
    node.raft.trigger().snapshot().await.expect("asked");
    clock::timeout(Duration::from_secs(60), async {
        while node.log.purged().is_none_or(|purged| purged.index < 25) {
            clock::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("purged");
    clock::sleep(Duration::from_secs(60)).await;
    assert!(node.log.purged().is_some_and(|purged| purged.index < 35), "no more than what is too much");
}
