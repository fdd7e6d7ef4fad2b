//! Checkpoints against stores that crash, rot and fill up.

use std::sync::{Arc, RwLock};

use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine;

use super::manifest::manifest_number;
use crate::id::Pos;
use crate::raft::testing::script::{Script, device, user};
use crate::raft::testing::{MemBlobs, NoSink};
use crate::raft::types::Entry;
use crate::raft::{Bodies, Checkpoint, CheckpointEvery, SnapshotMeta, StateMachine, checkpoint};
use crate::state::{Body, Item, Message, State};

struct Replica {
    machine: StateMachine,
    state: Arc<RwLock<State>>,
    blobs: Arc<MemBlobs>,
}

impl Replica {
    async fn open(blobs: Arc<MemBlobs>) -> std::io::Result<Self> {
        let (store, state) = checkpoint::Store::open(blobs.clone()).await?;
        let state = Arc::new(RwLock::new(state));
        let every = CheckpointEvery { entries: 1, bytes: 1 };
        let machine = StateMachine::new(Arc::new(store), state.clone(), Arc::new(NoSink), every);
        Ok(Self { machine, state, blobs })
    }

    async fn apply(&mut self, entries: impl IntoIterator<Item = Entry>) {
        let entries: Vec<_> = entries.into_iter().map(|entry| Ok((entry, None))).collect();
        self.machine.apply(futures_util::stream::iter(entries)).await.expect("applied");
    }

    async fn checkpoint(&mut self) -> std::io::Result<(SnapshotMeta, Checkpoint)> {
        let mut builder = self.machine.try_create_snapshot_builder(true).await.expect("forced");
        builder.build_snapshot().await.map(|snapshot| (snapshot.meta, snapshot.snapshot))
    }

    fn hash(&self) -> [u8; 32] {
        self.state.read().expect("whole").hash()
    }

    fn inbox(&self, number: u64) -> Vec<Arc<Message>> {
        let state = self.state.read().expect("whole");
        let items = state.inbox(&user(number), &device(), Pos::ZERO, usize::MAX, usize::MAX);
        let messages = items.into_iter().map(|item| match item {
            Item::Message(message) => message,
            Item::Gap { .. } => panic!("no gap in this test"),
        });
        messages.collect()
    }

    fn in_memory(&self) -> u64 {
        self.state.read().expect("whole").totals().memory_bytes
    }

    /// Reads all that waits for the users, and checks each body.
    async fn check_bodies(&self, users: std::ops::Range<u64>) -> std::io::Result<usize> {
        let bodies = Bodies::new(self.blobs.clone());
        let mut count = 0;
        for number in users {
            for message in self.inbox(number) {
                let body = match &message.body {
                    Body::Memory(bytes) => bytes.clone(),
                    Body::Stored(stored) => bodies.read(*stored).await?,
                };
                assert!(Script::is_body_of(&message.mid, &body));
                count += 1;
            }
        }
        Ok(count)
    }
}

/// A replica with twenty users who have some messages waiting.
async fn replica() -> (Replica, Script) {
    let mut replica = Replica::open(MemBlobs::new()).await.expect("opens");
    let (mut script, up) = Script::new();
    let mut entries = vec![up, script.register(0..20)];
    for to in 0..20 {
        entries.push(script.send(0..20, to, 100));
    }
    replica.apply(entries).await;
    (replica, script)
}

#[tokio::test]
async fn a_checkpoint_and_the_log_since_are_the_whole_log() {
    let (mut replica, mut script) = replica().await;
    replica.checkpoint().await.expect("written");
    let since: Vec<Entry> = vec![script.send(0..10, 3, 50), script.ack(4), script.send(5..6, 4, 10), script.ack(3)];
    let at_checkpoint = replica.hash();
    replica.apply(since.clone()).await;

    let mut again = Replica::open(replica.blobs.copy()).await.expect("opens");
    assert_eq!(again.hash(), at_checkpoint);
    again.apply(since).await;
    assert_eq!(again.hash(), replica.hash());
    assert_eq!(again.check_bodies(0..20).await.expect("readable"), 18 * 20 + 1);
    let (last, membership) = again.machine.applied_state().await.expect("known");
    assert_eq!((last, membership), replica.machine.applied_state().await.expect("known"));
}

#[tokio::test]
async fn bodies_leave_memory_and_are_found_in_the_blobs() {
    let (mut replica, mut script) = replica().await;
    assert!(replica.in_memory() > 0);
    let hash = replica.hash();
    replica.checkpoint().await.expect("written");
    assert_eq!(replica.in_memory(), 0);
    assert_eq!(replica.hash(), hash);
    assert_eq!(replica.check_bodies(0..20).await.expect("readable"), 400);
    let places: Vec<_> = replica
        .inbox(7)
        .iter()
        .map(|message| match message.body {
            Body::Stored(stored) => stored,
            Body::Memory(_) => panic!("in memory"),
        })
        .collect();
    let bodies = Bodies::new(replica.blobs.clone());
    for (at, body) in bodies.read_many(&places).await.expect("readable").iter().enumerate() {
        assert_eq!(*body, bodies.read(places[at]).await.expect("readable"));
    }
    replica.apply([script.send(0..1, 7, 30)]).await;
    assert_eq!(replica.in_memory(), 30);
}

#[tokio::test]
async fn a_checkpoint_costs_what_changed() {
    let mut replica = Replica::open(MemBlobs::new()).await.expect("opens");
    let (mut script, up) = Script::new();
    let mut entries = vec![up, script.register(0..1000)];
    for to in 0..1000 {
        entries.push(script.send(0..10, to, 200));
    }
    replica.apply(entries).await;
    replica.checkpoint().await.expect("written");
    let all = replica.blobs.written();
    replica.apply([script.send(1..2, 2, 200)]).await;
    replica.checkpoint().await.expect("written");
    let blobs: usize = replica.blobs.sizes().values().sum();
    let second = replica.blobs.written() - all;
    assert!(all > 2_500_000 && second < 150_000, "{all} bytes first, then {second} (with the manifest)");
    assert!(blobs < all + second);
    assert_eq!(replica.check_bodies(0..1000).await.expect("readable"), 10_001);
}

#[tokio::test]
async fn a_crash_at_any_point_leaves_one_of_the_checkpoints() {
    let (mut replica, mut script) = replica().await;
    let mut hashes = vec![State::new().hash()];
    let mut entries = Vec::new();
    for round in 0..4 {
        replica.checkpoint().await.expect("written");
        hashes.push(replica.hash());
        entries = vec![script.send(0..3, round, 10), script.ack(round + 10)];
        replica.apply(entries.clone()).await;
    }
    drop(entries);
    let mut found = 0;
    for crashed in replica.blobs.crashes() {
        let again = Replica::open(crashed).await.expect("opens");
        let at = hashes.iter().position(|hash| *hash == again.hash()).expect("one of the checkpoints");
        assert!(at >= found, "no checkpoint is lost again");
        found = at;
        again.check_bodies(0..20).await.expect("readable");
    }
    assert_eq!(found, 4);
}

#[tokio::test]
async fn what_rots_is_refused() {
    let (mut replica, _) = replica().await;
    replica.checkpoint().await.expect("written");
    let hash = replica.hash();
    for (name, size) in replica.blobs.sizes() {
        for bit in (0..size * 8).step_by(997) {
            let rotten = replica.blobs.copy();
            rotten.flip_bit(&name, bit);
            let refused = match Replica::open(rotten).await {
                Err(error) => error,
                Ok(again) => {
                    assert_eq!(again.hash(), hash, "{name} {bit}: what was loaded is right");
                    let checked = again.check_bodies(0..20).await;
                    checked.map(drop).expect_err("the flipped bit is in a body")
                }
            };
            assert_eq!(refused.kind(), std::io::ErrorKind::InvalidData, "{name} {bit}: {refused}");
        }
    }
}

#[tokio::test]
async fn old_blobs_are_merged_and_deleted() {
    let (mut replica, mut script) = replica().await;
    for round in 0..300 {
        // One message of each round stays for ever, the rest goes soon.
        let mut entries = vec![script.send(round % 20..round % 20 + 1, 19, 50)];
        entries.extend((0..10).map(|to| script.send(0..10, to, 300)));
        entries.extend((0..10).map(|who| script.ack(who)));
        replica.apply(entries).await;
        replica.checkpoint().await.expect("written");
    }
    let sizes = replica.blobs.sizes();
    assert_eq!(sizes.keys().filter(|name| manifest_number(name).is_some()).count(), 1);
    let total: usize = sizes.values().sum();
    assert!(sizes.len() <= 70 && total < 500_000, "{} blobs of {total} bytes", sizes.len());
    assert_eq!(replica.check_bodies(0..20).await.expect("readable"), 300 + 10 * 20);
    let again = Replica::open(replica.blobs.copy()).await.expect("opens");
    assert_eq!(again.hash(), replica.hash());
    assert_eq!(again.check_bodies(0..20).await.expect("readable"), 300 + 10 * 20);
}

#[tokio::test]
async fn a_checkpoint_in_use_stays_whole() {
    let (mut replica, mut script) = replica().await;
    let (_, held) = replica.checkpoint().await.expect("written");
    for _ in 0..3 {
        replica.apply((0..20).map(|who| script.ack(who)).collect::<Vec<_>>()).await;
        replica.checkpoint().await.expect("written");
    }
    let mut lagging = Replica::open(MemBlobs::new()).await.expect("opens");
    lagging.machine.install_snapshot(&held.manifest.meta(), held.clone()).await.expect("installed");
    assert_eq!(lagging.check_bodies(0..20).await.expect("readable"), 400);
    drop((held, lagging));
    replica.apply([script.ack(0)]).await;
    replica.checkpoint().await.expect("written");
    assert!(replica.blobs.sizes().values().sum::<usize>() < 15_000);
}

#[tokio::test]
async fn a_lagging_replica_takes_over_a_checkpoint() {
    let (mut replica, mut script) = replica().await;
    let (mut lagging, _) = self::replica().await;
    lagging.checkpoint().await.expect("written");
    replica.apply([script.send(0..5, 6, 40), script.ack(7)]).await;
    let (meta, checkpoint) = replica.checkpoint().await.expect("written");
    lagging.machine.install_snapshot(&meta, checkpoint).await.expect("installed");
    assert_eq!(lagging.hash(), replica.hash());
    assert_eq!(lagging.check_bodies(0..20).await.expect("readable"), 19 * 20 + 5);
    // Both go on, each with its own checkpoints.
    let entries = vec![script.send(0..20, 8, 40), script.ack(6)];
    for one in [&mut replica, &mut lagging] {
        one.apply(entries.clone()).await;
        one.checkpoint().await.expect("written");
        one.checkpoint().await.expect("written");
    }
    for one in [&replica, &lagging] {
        let again = Replica::open(one.blobs.copy()).await.expect("opens");
        assert_eq!(again.hash(), replica.hash());
        assert_eq!(again.check_bodies(0..20).await.expect("readable"), 19 * 20);
    }
}

#[tokio::test]
async fn a_takeover_beats_a_checkpoint_being_built() {
    let (mut replica, mut script) = replica().await;
    let (mut lagging, _) = self::replica().await;
    let mut slow = lagging.machine.try_create_snapshot_builder(true).await.expect("forced");
    replica.apply([script.send(0..5, 6, 40)]).await;
    let (meta, checkpoint) = replica.checkpoint().await.expect("written");
    lagging.machine.install_snapshot(&meta, checkpoint).await.expect("installed");
    assert_eq!(slow.build_snapshot().await.expect("told of the newer one").meta, meta);
    assert_eq!(lagging.hash(), replica.hash());
    let again = Replica::open(lagging.blobs.copy()).await.expect("opens");
    assert_eq!(again.hash(), replica.hash());
    assert_eq!(again.check_bodies(0..20).await.expect("readable"), 405);
}

#[tokio::test]
async fn a_full_disk_keeps_the_previous_checkpoint_and_loses_nothing() {
    let (mut replica, mut script) = replica().await;
    replica.blobs.set_full(true);
    replica.checkpoint().await.map(drop).expect_err("there is none to keep");
    replica.blobs.set_full(false);
    let (first, _) = replica.checkpoint().await.expect("written");
    replica.apply([script.send(0..5, 6, 40)]).await;
    replica.blobs.set_full(true);
    assert_eq!(replica.checkpoint().await.expect("the previous one").0, first);
    replica.apply([script.send(0..5, 7, 40)]).await;
    replica.blobs.set_full(false);
    replica.checkpoint().await.expect("written");
    let again = Replica::open(replica.blobs.copy()).await.expect("opens");
    assert_eq!(again.hash(), replica.hash());
    assert_eq!(again.check_bodies(0..20).await.expect("readable"), 410);
}
