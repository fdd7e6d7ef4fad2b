//! What a node cannot go on from ends its process with exit code 1 and one line that says how to
//! mend it; and what the line says does mend it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cluster::config::LogKeeping;
use cluster::env::Env;
use cluster::env::kv::Write;
use cluster::observer::NoObserver;
use cluster::peer::Secret;
use cluster::raft::CheckpointEvery;
use cluster::state::{GroupLimits, Limits};
use cluster::{Cluster, ClusterConfig};

use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::{CLUSTER_SECRET, TestCluster, eventually};

/// The node whose data goes bad.
const VICTIM: usize = 2;

/// Three nodes with something in their logs and inboxes, and the last one down.
async fn victim() -> (TestCluster, Arc<Ledger>) {
    let mut cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0]).await;
    Person::connect(&cluster, &ledger, "bob", "phone", &[1]).await.leave().await;
    alice.say_many("bob", 50).await;
    eventually("all are stored", async || (ledger.stored() == 50).then_some(())).await;
    caught_up(&cluster).await;
    alice.leave().await;
    cluster.kill(VICTIM);
    (cluster, ledger)
}

/// Waits until the victim has applied what another node has.
async fn caught_up(cluster: &TestCluster) {
    let applied = async |node| cluster.status(node).await?["applied_index"].as_u64();
    eventually("the victim has applied everything", async || {
        let there = applied(0).await?;
        (applied(VICTIM).await? >= there).then_some(())
    })
    .await;
}

/// The victim, started on its data, ends at once; its last words, in one line, hold all of `words`.
/// Wiped, as the words say, it joins as a new node, and everything that was stored is still there.
async fn ends_and_is_mended(mut cluster: TestCluster, ledger: Arc<Ledger>, words: &[&str]) {
    let before = cluster.log(VICTIM).len();
    cluster.restart(VICTIM);
    let code = cluster.ended(VICTIM).await;
    let log = cluster.log(VICTIM).split_off(before);
    assert_eq!(code, Some(1), "{log}");
    let last: Vec<&str> = log.lines().filter(|line| line.contains("\"level\":\"FATAL\"")).collect();
    let [line] = last[..] else { panic!("not one line: {log}") };
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    assert!(!log.contains("panicked"), "{log}");

    cluster.wipe(VICTIM);
    cluster.restart(VICTIM);
    cluster.ready(VICTIM).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[VICTIM]).await;
    ledger.settled().await;
    drop(bob);
}

fn open(data: &Path) -> Env {
    im_gateway::env::open(data).expect("the node that had it open is dead")
}

#[tokio::test]
async fn a_damaged_log_record() {
    let (cluster, ledger) = victim().await;
    let env = open(cluster.data(VICTIM));
    let log = env.kv.range(b"log/", b"log0", 1_000).expect("readable");
    let (key, record) = &log[log.len() / 2];
    let mut damaged = record.to_vec();
    *damaged.last_mut().expect("a record has bytes") ^= 0x10;
    env.kv.write(&[Write::Put(key.clone(), Bytes::from(damaged))]).expect("writable");
    env.kv.sync().await.expect("durable");
    drop((log, env));
    ends_and_is_mended(cluster, ledger, &["log entry", "damaged", "empty its data directory"]).await;
}

#[tokio::test]
async fn a_damaged_checkpoint() {
    let (cluster, ledger) = victim().await;
    // The same node, but one that writes a checkpoint of every little thing.
    let every = CheckpointEvery { entries: 1, bytes: 1 };
    let config = ClusterConfig {
        peer_listen: cluster.peer_addr(VICTIM),
        peer_advertise: None,
        client_url: cluster.url(VICTIM),
        join: Vec::new(),
        bootstrap: false,
        secret: Secret::new(CLUSTER_SECRET),
        voters: 3,
        limits: Limits::default(),
        groups: GroupLimits::default(),
        feature_level: cluster::state::FEATURE_LEVEL,
        log: LogKeeping { checkpoint: every, ..LogKeeping::default() },
    };
    let data = cluster.data(VICTIM).to_owned();
    // On a runtime of its own: when that ends, nobody has the data open any more.
    let write = move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let node = Cluster::start(open(&data), config, Arc::new(NoObserver)).await.expect("it starts");
            eventually("a checkpoint", async || (node.status().checkpoint_index > 0).then_some(())).await;
            node.stop().await;
        });
    };
    tokio::task::spawn_blocking(write).await.expect("it does not panic");

    let blobs = cluster.data(VICTIM).join("blobs");
    let files = fs::read_dir(blobs).expect("a folder").map(|entry| entry.expect("an entry").path());
    let blobs: Vec<_> = files.filter(|path| name(path).starts_with("ck-")).collect();
    assert!(!blobs.is_empty(), "a checkpoint has blobs");
    for blob in blobs {
        let mut bytes = fs::read(&blob).expect("readable");
        *bytes.last_mut().expect("it is not empty") ^= 0x10;
        fs::write(&blob, bytes).expect("writable");
    }
    ends_and_is_mended(cluster, ledger, &["checkpoint", "damaged", "empty its data directory"]).await;
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("a name")
}
