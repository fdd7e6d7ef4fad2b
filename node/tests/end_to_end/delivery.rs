//! Messages arrive: many, late, on any node, at every device.

use std::sync::Arc;

use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::{Options, TestCluster, eventually};

/// Lets a test send as fast as it can.
const FAST: &str = "send_per_s = 100000";

async fn fast_cluster() -> TestCluster {
    TestCluster::start_with(3, Options { limits: FAST.into(), ..Options::default() }).await
}

#[tokio::test]
async fn ten_thousand_messages_each_way() {
    const COUNT: usize = 10_000;
    let cluster = fast_cluster().await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[1]).await;
    tokio::join!(alice.say_many("bob", COUNT), bob.say_many("alice", COUNT));
    ledger.settled().await;
    assert_eq!((ledger.count("alice", "phone"), ledger.count("bob", "phone")), (COUNT as u64, COUNT as u64));
    assert_eq!((alice.ends(), bob.ends()), (vec![], vec![]), "nobody lost the connection");
    eventually("the counters agree", async || {
        let mut counts = Vec::new();
        for node in 0..3 {
            counts.push(cluster.metric(node, "im_gateway_messages_delivered_total", "direct").await?);
        }
        (counts == [COUNT as f64, COUNT as f64, 0.0]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_waits_is_read_on_any_node_even_after_all_restarted() {
    const COUNT: usize = 1_000;
    let mut cluster = fast_cluster().await;
    let ledger = Ledger::new();
    let sender = Person::connect(&cluster, &ledger, "sender", "phone", &[0, 1, 2]).await;
    // Half of them were here before, so that a device of theirs is known; the others never were.
    for name in ["early-0", "early-1", "late-2"] {
        Person::connect(&cluster, &ledger, name, "phone", &[2]).await.leave().await;
    }
    let early = ["early-0", "early-1", "early-2"];
    let late = ["late-0", "late-1", "late-2"];
    for name in early.iter().chain(&late) {
        sender.say_many(name, COUNT).await;
        ledger.device(name, "phone");
    }
    eventually("all are stored", async || (ledger.stored() == 6 * COUNT as u64).then_some(())).await;
    let readers = read_on_each(&cluster, &ledger, early).await;
    for name in early {
        all_came(&ledger, name, COUNT).await;
    }
    for index in 0..3 {
        cluster.kill(index);
    }
    for index in 0..3 {
        cluster.restart(index);
    }
    let readers_after = read_on_each(&cluster, &ledger, late).await;
    ledger.settled().await;
    for name in late {
        all_came(&ledger, name, COUNT).await;
    }
    drop((readers, readers_after));
}

async fn read_on_each(cluster: &TestCluster, ledger: &Arc<Ledger>, names: [&str; 3]) -> Vec<Person> {
    let mut readers = Vec::new();
    for (node, name) in names.into_iter().enumerate() {
        readers.push(Person::connect(cluster, ledger, name, "phone", &[node]).await);
    }
    readers
}

async fn all_came(ledger: &Ledger, name: &str, count: usize) {
    eventually(&format!("everything comes to {name}"), async || {
        ledger.check();
        (ledger.count(name, "phone") == count as u64).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_device_gets_everything() {
    const COUNT: usize = 500;
    let cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0]).await;
    let phone = Person::connect(&cluster, &ledger, "bob", "phone", &[1]).await;
    let laptop = Person::connect(&cluster, &ledger, "bob", "laptop", &[2]).await;
    // Both are there.
    alice.say_many("bob", COUNT).await;
    ledger.settled().await;
    // One is away.
    laptop.leave().await;
    alice.say_many("bob", COUNT).await;
    all_came(&ledger, "bob", 2 * COUNT).await;
    assert_eq!(ledger.count("bob", "laptop"), COUNT as u64);
    // Both are away; then they come back, elsewhere.
    phone.leave().await;
    alice.say_many("bob", COUNT).await;
    let phone = Person::connect(&cluster, &ledger, "bob", "phone", &[2]).await;
    let laptop = Person::connect(&cluster, &ledger, "bob", "laptop", &[0]).await;
    // A device writes to its own user: its other devices and itself get that too.
    phone.say_many("bob", 10).await;
    ledger.settled().await;
    assert_eq!(ledger.count("bob", "phone"), 3 * COUNT as u64 + 10);
    assert_eq!(ledger.count("bob", "laptop"), 3 * COUNT as u64 + 10);
    drop(laptop);
}
