//! The log store against a store that crashes, rots and fails.

use std::sync::Arc;

use openraft::storage::RaftLogStorageExt;
use openraft::{EntryPayload, RaftLogReader};
use tokio::sync::oneshot;

use super::*;
use crate::id::NodeId;
use crate::raft::testing::MemKv;
use crate::raft::types::{LeaderId, Payload};

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: NodeId(1) }, index }
}

fn entry(term: u64, index: u64, len: usize) -> Entry {
    let body = vec![u8::try_from(index % 251).expect("small"); len];
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(Payload(body.into())) }
}

async fn open(kv: &Arc<MemKv>) -> LogStore {
    LogStore::open(kv.clone()).await.expect("the log opens")
}

async fn fill(log: &mut LogStore, term: u64, indexes: std::ops::Range<u64>) {
    log.blocking_append(indexes.map(|index| entry(term, index, 100))).await.expect("appended");
}

/// Appends and returns what tells when it is durable.
async fn append(log: &mut LogStore, entry: Entry) -> oneshot::Receiver<io::Result<()>> {
    let (sender, receiver) = <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
    log.append([entry], IOFlushed::signal(sender)).await.expect("written");
    receiver
}

async fn indexes(log: &mut LogStore) -> Vec<u64> {
    let entries = log.get_log_reader().await.try_get_log_entries(..).await.expect("readable");
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut() {
    let kv = MemKv::new();
    let mut log = open(&kv).await;
    fill(&mut log, 1, 0..10).await;
    log.save_vote(&Vote::new(3, NodeId(1))).await.expect("saved");
    let mut log = open(&kv.crash(0)).await;
    assert_eq!(indexes(&mut log).await, (0..10).collect::<Vec<_>>());
    assert_eq!(log.get_log_reader().await.read_vote().await.expect("readable"), Some(Vote::new(3, NodeId(1))));
}

#[tokio::test]
async fn a_crash_leaves_a_prefix_and_what_was_found_is_made_durable() {
    let kv = MemKv::new();
    let mut log = open(&kv).await;
    fill(&mut log, 1, 0..4).await;
    kv.hold_syncs(true);
    let mut waiting = Vec::new();
    for index in 4..8 {
        waiting.push(append(&mut log, entry(1, index, 10)).await);
        log.save_committed(Some(log_id(1, index - 1))).await.expect("written");
    }
    for kept in 0..=kv.unsynced() {
        let crashed = kv.crash(kept);
        let mut log = open(&crashed).await;
        let found = indexes(&mut log).await;
        assert_eq!(found, (0..4 + kept.div_ceil(2) as u64).collect::<Vec<_>>());
        let state = log.get_log_state().await.expect("readable");
        assert!(log.read_committed().await.expect("readable") <= state.last_log_id);
        assert_eq!(indexes(&mut open(&crashed.crash(0)).await).await, found, "opening made it durable");
    }
    assert!(waiting.iter_mut().all(|waiter| waiter.try_recv().is_err()), "nothing was acknowledged before a sync");
}

#[tokio::test]
async fn one_sync_serves_all_who_wait() {
    let kv = MemKv::new();
    let mut log = open(&kv).await;
    kv.hold_syncs(true);
    let before = kv.syncs();
    let mut waiting = Vec::new();
    for index in 0..100 {
        waiting.push(append(&mut log, entry(1, index, 10)).await);
    }
    kv.hold_syncs(false);
    for waiter in waiting {
        waiter.await.expect("told").expect("durable");
    }
    assert!(kv.syncs() - before <= 3, "{} syncs for 100 appends", kv.syncs() - before);
}

#[tokio::test]
async fn a_failed_sync_is_reported_to_all_and_for_good() {
    let kv = MemKv::new();
    let mut log = open(&kv).await;
    kv.break_syncs();
    for index in 0..3 {
        append(&mut log, entry(1, index, 10)).await.await.expect("told").expect_err("not durable");
    }
    log.save_vote(&Vote::new(1, NodeId(1))).await.expect_err("not durable");
}

#[tokio::test]
async fn a_flipped_bit_is_refused_with_a_word_on_what_to_do() {
    let kv = MemKv::new();
    let mut log = open(&kv).await;
    fill(&mut log, 1, 0..10).await;
    log.save_vote(&Vote::new(1, NodeId(1))).await.expect("saved");
    let rotten = kv.crash(0);
    rotten.flip_bit(&log_key(4), 77);
    let mut log = open(&rotten).await;
    let error = log.get_log_reader().await.try_get_log_entries(0..10).await.expect_err("damaged").to_string();
    assert!(error.contains("log entry 4") && error.contains("empty its data directory"), "{error}");
    for key in [&log_key(9)[..], VOTE] {
        let rotten = kv.crash(0);
        rotten.flip_bit(key, 9);
        let error = LogStore::open(rotten).await.map(drop).expect_err("damaged");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn a_missing_entry_is_refused() {
    let kv = MemKv::new();
    let mut log = open(&kv).await;
    fill(&mut log, 1, 0..10).await;
    kv.write(&[Write::Delete(log_key(5))]).expect("written");
    let mut log = open(&kv).await;
    log.get_log_reader().await.try_get_log_entries(0..10).await.expect_err("a hole");
}

#[tokio::test]
async fn recent_entries_are_read_from_memory_and_older_ones_still_found() {
    let kv = MemKv::new();
    let mut log = LogStore::open_with(kv.clone(), 10_000).await.expect("opens");
    for index in 0..200 {
        log.blocking_append([entry(1, index, 500)]).await.expect("appended");
    }
    let mut reader = log.get_log_reader().await;
    let before = kv.reads();
    assert_eq!(reader.try_get_log_entries(190..200).await.expect("readable").len(), 10);
    assert_eq!(kv.reads(), before, "recent entries do not touch the store");
    let all = reader.try_get_log_entries(0..200).await.expect("readable");
    assert_eq!(all, (0..200).map(|index| entry(1, index, 500)).collect::<Vec<_>>());
    assert!(log.0.tail().cache.first() > Some(180), "the cache is bounded");
}

#[tokio::test]
async fn a_read_is_bounded_by_bytes_but_never_empty() {
    let kv = MemKv::new();
    let mut log = LogStore::open_with(kv, 1 << 20).await.expect("opens");
    log.blocking_append((0..16).map(|index| entry(1, index, 300 << 10))).await.expect("appended");
    log.blocking_append([entry(1, 16, 2 << 20)]).await.expect("appended");
    let mut reader = log.get_log_reader().await;
    assert_eq!(reader.limited_get_log_entries(0, 17).await.expect("readable").len(), 2);
    assert_eq!(reader.limited_get_log_entries(14, 17).await.expect("readable").len(), 2);
    assert_eq!(reader.limited_get_log_entries(16, 17).await.expect("readable").len(), 1);
}

#[tokio::test]
async fn truncation_is_durable_and_leaves_no_hole_anywhere() {
    let kv = MemKv::new();
    let mut log = open(&kv).await;
    fill(&mut log, 1, 0..2000).await;
    log.truncate_after(Some(log_id(1, 99))).await.expect("truncated");
    assert_eq!(kv.unsynced(), 0);
    fill(&mut log, 2, 100..110).await;
    assert_eq!(indexes(&mut open(&kv.crash(0)).await).await, (0..110).collect::<Vec<_>>());
    assert_eq!(log.last(), Some(log_id(2, 109)));
    log.truncate_after(None).await.expect("truncated");
    assert_eq!(log.last(), None);
}

#[tokio::test]
async fn purged_entries_are_gone_at_once_and_swept_later() {
    let kv = MemKv::new();
    let mut log = open(&kv).await;
    fill(&mut log, 1, 0..3000).await;
    log.purge(log_id(1, 2499)).await.expect("purged");
    assert_eq!(indexes(&mut log).await, (2500..3000).collect::<Vec<_>>());
    while kv.keys().len() > 501 {
        clock_step().await;
    }
    let mut log = open(&kv).await;
    assert_eq!(log.get_log_state().await.expect("readable").last_purged_log_id, Some(log_id(1, 2499)));
    assert_eq!(indexes(&mut log).await, (2500..3000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_purge_past_the_end_moves_the_log_there() {
    let kv = MemKv::new();
    let mut log = open(&kv).await;
    fill(&mut log, 1, 0..10).await;
    log.purge(log_id(5, 1000)).await.expect("purged");
    assert_eq!(log.last(), Some(log_id(5, 1000)));
    fill(&mut log, 5, 1001..1003).await;
    for kept in 0..=kv.unsynced() {
        let mut log = open(&kv.crash(kept)).await;
        assert_eq!(indexes(&mut log).await, vec![1001, 1002], "swept or not");
    }
}

/// Lets the sweep go on.
async fn clock_step() {
    crate::env::clock::sleep(std::time::Duration::from_millis(1)).await;
}
