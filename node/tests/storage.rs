//! openraft's storage suite on the real stores: sled and files.

#![cfg(feature = "real")]

use std::sync::Arc;

use cluster::raft::{ApplySink, CheckpointEvery, LogId, LogStore, StateMachine, Storage, TypeConfig};
use cluster::state::Effect;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

struct NoSink;

impl ApplySink for NoSink {
    fn applied(&self, _at: &LogId, _effects: Vec<Effect>) {}
    fn installed(&self, _index: u64) {}
}

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a folder");
        let env = im_gateway::env::open(dir.path()).expect("opens");
        let Storage { log, machine, .. } =
            cluster::raft::open(&env, Arc::new(NoSink), CheckpointEvery::default()).await.expect("opens");
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn passes_openrafts_storage_suite() {
    Suite::test_all(OnDisk).await.expect("the suite passes");
}
