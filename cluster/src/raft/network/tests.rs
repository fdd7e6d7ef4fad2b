//! Whole Rafts talking over links in memory, on a clock that jumps when all tasks wait.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::errors::{RPCError, StreamingError};
use openraft::network::RPCOption;
use openraft::raft::VoteRequest;
use openraft::{RaftNetworkFactory, RaftNetworkV2};

use super::*;
use crate::env::clock;
use crate::id::Pos;
use crate::raft::LogId;
use crate::raft::checkpoint::Checkpoint;
use crate::raft::codec::DecodeError;
use crate::raft::testing::cluster::{Setup, TestCluster, TestNode, Writer};
use crate::raft::testing::script::{Script, device, user};
use crate::raft::types::{Entry, Payload};
use crate::state::{Body, Item};

async fn check_bodies(node: &TestNode, users: u64) -> usize {
    let mut messages = Vec::new();
    for number in 0..users {
        let state = node.state.read().expect("whole");
        messages.extend(state.inbox(&user(number), &device(), Pos::ZERO, usize::MAX, usize::MAX));
    }
    let count = messages.len();
    for item in messages {
        let Item::Message(message) = item else { panic!("no gap in this test") };
        let body = match &message.body {
            Body::Memory(bytes) => bytes.clone(),
            Body::Stored(stored) => node.bodies.read(*stored).await.expect("readable"),
        };
        assert!(Script::is_body_of(&message.mid, &body));
    }
    count
}

#[tokio::test(start_paused = true)]
async fn what_one_writes_all_apply() {
    let cluster = TestCluster::start(3, Setup::default()).await;
    let leader = cluster.leader().await;
    let mut writer = Writer::new(cluster.nodes[leader].raft.clone()).await;
    let entry = writer.script.register(0..10);
    writer.write(entry).await;
    for to in 0..10 {
        let entry = writer.script.send(0..10, to, 5_000);
        writer.write(entry).await;
    }
    cluster.settle(leader, 0..3).await;
    for node in &cluster.nodes {
        assert_eq!(node.hash(), cluster.nodes[leader].hash());
        assert_eq!(check_bodies(node, 10).await, 100);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_missed_the_log_is_sent_a_checkpoint() {
    let cluster = TestCluster::start(3, Setup::aggressive(10)).await;
    let leader = cluster.leader().await;
    let mut writer = Writer::new(cluster.nodes[leader].raft.clone()).await;
    let entry = writer.script.register(0..100);
    writer.write(entry).await;
    let lagging = (leader + 1) % 3;
    cluster.settle(leader, 0..3).await;
    cluster.isolate(lagging, true);
    let before = cluster.nodes[lagging].applied();
    for to in 0..100 {
        // Several blobs, some larger than a piece.
        let entry = writer.script.send(0..100, to, 2_000);
        writer.write(entry).await;
    }
    assert!(cluster.nodes[leader].metrics().purged.is_some_and(|purged| purged.index > before));
    cluster.isolate(lagging, false);
    cluster.settle(leader, 0..3).await;
    let node = &cluster.nodes[lagging];
    assert!(node.metrics().snapshot.is_some_and(|snapshot| snapshot.index > before));
    assert_eq!(node.hash(), cluster.nodes[leader].hash());
    assert_eq!(check_bodies(node, 100).await, 10_000);

    // And it goes on with the others.
    let entry = writer.script.send(0..100, 0, 10);
    writer.write(entry).await;
    cluster.settle(leader, 0..3).await;
    assert_eq!(node.hash(), cluster.nodes[leader].hash());

    // Also after a restart from its own disk.
    let again = cluster.open(node.id, node.kv.crash(0), node.blobs.copy()).await;
    again.peers.close();
    assert!(check_bodies(&again, 100).await >= 10_000);
}

/// Writes a lot through a leader; the checkpoint that it then makes.
async fn checkpoint_of(node: &TestNode) -> Checkpoint {
    let mut writer = Writer::new(node.raft.clone()).await;
    let entry = writer.script.register(0..200);
    writer.write(entry).await;
    for to in 0..200 {
        let entry = writer.script.send(0..200, to, 1_000);
        writer.write(entry).await;
    }
    let store = node.raft.with_state_machine(|machine| {
        let builder = machine.checkpoints();
        Box::pin(async move { builder })
    });
    let store = store.await.expect("running");
    node.raft.trigger().snapshot().await.expect("running");
    // The policy has the last word, so ask until it is due.
    while store.current().is_none() {
        let entry = writer.script.send(0..200, 0, 1_000);
        writer.write(entry).await;
        node.raft.trigger().snapshot().await.expect("running");
        clock::sleep(Duration::from_millis(10)).await;
    }
    let checkpoint = store.current().expect("there is one");
    assert!(checkpoint.manifest.blobs.len() > 2, "several blobs");
    checkpoint
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_transfer_goes_on_with_what_came() {
    let cluster = TestCluster::start(2, Setup::default()).await;
    let leader = cluster.leader().await;
    let node = &cluster.nodes[leader];
    let checkpoint = checkpoint_of(node).await;
    let lagging = &cluster.nodes[1 - leader];
    let vote = node.metrics().vote;
    let sending = super::send::Sending::new(&node.peers, lagging.id, &checkpoint, Duration::from_secs(5));
    // Half of the way, then the link is gone.
    let half = async {
        while lagging.blobs.sizes().keys().filter(|name| name.starts_with("ck-")).count() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = half => {}
        _ = sending.run(vote) => panic!("too fast"),
    }
    let came: BTreeSet<_> = lagging.blobs.sizes().into_keys().filter(|name| name.starts_with("ck-")).collect();
    let written = lagging.blobs.written();
    let again = super::send::Sending::new(&node.peers, lagging.id, &checkpoint, Duration::from_secs(5));
    again.run(vote).await.expect("sent");
    let all: usize = checkpoint.manifest.blobs.values().map(|blob| blob.len as usize).sum();
    assert!(lagging.blobs.written() - written < all, "what had come did not come again");
    assert!(came.iter().all(|name| lagging.blobs.sizes().contains_key(name)));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_checkpoint_is_found_by_the_one_who_sends_it() {
    let cluster = TestCluster::start(2, Setup::default()).await;
    let leader = cluster.leader().await;
    let node = &cluster.nodes[leader];
    let checkpoint = checkpoint_of(node).await;
    let last = checkpoint.manifest.blobs.keys().next_back().expect("some");
    node.blobs.flip_bit(&crate::raft::checkpoint::blob_name(*last), 999);
    let target = cluster.nodes[1 - leader].id;
    let sending = super::send::Sending::new(&node.peers, target, &checkpoint, Duration::from_secs(5));
    let error = sending.run(node.metrics().vote).await.expect_err("refused");
    assert!(matches!(error, StreamingError::StorageError(_)), "it ends the node, for it cannot mend itself: {error}");
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_node_grants_nothing() {
    let cluster = TestCluster::start(3, Setup::default()).await;
    let leader = cluster.leader().await;
    let node = &cluster.nodes[leader];
    let other = cluster.nodes[(leader + 1) % 3].id;
    let mut client = network(node.peers.clone()).new_client(other, &Member::default()).await;
    let vote = node.metrics().vote;
    let ask = VoteRequest::new(Vote::new(vote.leader_id.term + 1, node.id), None);
    let option = RPCOption::new(Duration::from_millis(200));
    let answer = client.pre_vote(ask.clone(), option.clone()).await.expect("reachable");
    assert!(!answer.vote_granted, "its log is longer than nothing");
    node.peers.set_addresses(std::collections::BTreeMap::new());
    let error = client.pre_vote(ask.clone(), option.clone()).await.expect_err("unreachable");
    assert!(matches!(error, RPCError::Unreachable(_)), "{error}");
    client.vote(ask, option).await.expect_err("unreachable");
}

#[tokio::test(start_paused = true)]
async fn who_was_cut_off_does_not_raise_the_term() {
    let cluster = TestCluster::start(3, Setup::default()).await;
    let leader = cluster.leader().await;
    let cut = (leader + 1) % 3;
    let term = cluster.nodes[leader].metrics().current_term;
    cluster.isolate(cut, true);
    clock::sleep(Duration::from_secs(20)).await;
    assert_eq!(cluster.nodes[cut].metrics().current_term, term);
    cluster.isolate(cut, false);
    cluster.nodes[leader].raft.write_blank().await.expect("written");
    cluster.settle(leader, 0..3).await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.nodes[leader].metrics().current_term, term);
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over() {
    let cluster = TestCluster::start(3, Setup::default()).await;
    let leader = cluster.leader().await;
    let to = (leader + 1) % 3;
    cluster.nodes[leader].raft.trigger().transfer_leader(cluster.nodes[to].id).await.expect("running");
    let started = clock::now();
    while cluster.leader().await != to {
        clock::sleep(Duration::from_millis(1)).await;
        assert!(started.elapsed() < Duration::from_secs(10), "nothing happened");
    }
    assert!(started.elapsed() < Duration::from_millis(150), "faster than any election timeout");
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_replaced_within_the_time_that_the_settings_promise() {
    for _ in 0..10 {
        let cluster = TestCluster::start(3, Setup::default()).await;
        let leader = cluster.leader().await;
        clock::sleep(Duration::from_millis(500)).await;
        let died = clock::now();
        cluster.isolate(leader, true);
        loop {
            let now = cluster.leader().await;
            if now != leader {
                cluster.nodes[now].raft.write_blank().await.expect("written");
                break;
            }
            clock::sleep(Duration::from_millis(1)).await;
        }
        assert!(died.elapsed() < Duration::from_millis(500), "{:?}", died.elapsed());
    }
}

#[test]
fn an_append_comes_back_as_it_was() {
    let leader_id = LeaderId { term: 3, node_id: NodeId(7) };
    let log_id = |index| LogId { leader_id, index };
    let rpc = AppendEntriesRequest::<TypeConfig> {
        vote: Vote::new_committed(3, NodeId(7)),
        prev_log_id: Some(log_id(9)),
        entries: vec![
            Entry { log_id: log_id(10), payload: openraft::EntryPayload::Blank },
            Entry { log_id: log_id(11), payload: openraft::EntryPayload::Normal(Payload("abc".into())) },
        ],
        leader_commit: Some(log_id(8)),
    };
    let bytes = encode_append(&rpc);
    let back = decode_append(&bytes).expect("readable");
    assert_eq!(
        (back.vote, back.prev_log_id, &back.entries, back.leader_commit),
        (rpc.vote, rpc.prev_log_id, &rpc.entries, rpc.leader_commit)
    );
    for len in 0..bytes.len() {
        // Cut between two entries it is a shorter request; a link's frame has a length of its own.
        if let Ok(shorter) = decode_append(&bytes.slice(..len)) {
            assert!(shorter.entries.len() < 2);
        }
    }
    let gap = AppendEntriesRequest::<TypeConfig> { entries: rpc.entries[1..].to_vec(), ..rpc };
    assert!(matches!(decode_append(&encode_append(&gap)), Err(DecodeError::Malformed(_))));
}
