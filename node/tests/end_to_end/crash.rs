//! Nodes are killed in the middle of a stream, and nothing that got its `ok` is lost, repeated or
//! out of order; clients on the SDK do nothing about it.

use std::time::Duration;

use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::{TestCluster, eventually};

const PACE: Duration = Duration::from_millis(5);

/// The sender begins at node 0, the recipient at node 1, both write to each other; `victim` dies.
async fn survives(leader: usize, victim: usize) {
    let mut cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    cluster.lead(leader).await;
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0, 1, 2]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[1, 2, 0]).await;
    assert_eq!((alice.node(), bob.node()), (Some(cluster.addr(0)), Some(cluster.addr(1))));
    let talks = [alice.talk("bob", PACE), bob.talk("alice", PACE)];
    ledger.progress(200).await;
    cluster.kill(victim);
    ledger.progress(200).await;
    // The dead one's clients are elsewhere; the others have noticed nothing.
    for (person, home) in [(&alice, 0), (&bob, 1)] {
        if home == victim {
            person.connected_times(2).await;
            assert_ne!(person.node(), Some(cluster.addr(victim)));
        } else {
            assert_eq!(person.ends(), Vec::<String>::new(), "{} was not on the dead node", person.name);
        }
    }
    // The dead one comes back and takes part.
    cluster.restart(victim);
    cluster.ready(victim).await;
    ledger.progress(100).await;
    for talk in talks {
        talk.stop().await;
    }
    ledger.settled().await;
}

#[tokio::test]
async fn the_recipients_node_dies() {
    survives(2, 1).await;
}

#[tokio::test]
async fn the_senders_node_dies() {
    survives(2, 0).await;
}

#[tokio::test]
async fn the_leader_dies() {
    survives(2, 2).await;
}

#[tokio::test]
async fn the_leader_dies_and_its_clients_with_it() {
    survives(1, 1).await;
}

#[tokio::test]
async fn all_nodes_die_at_once() {
    let mut cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0, 1, 2]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[1, 2, 0]).await;
    // Somebody who is away has an inbox that must survive.
    Person::connect(&cluster, &ledger, "carol", "phone", &[2]).await.leave().await;
    let talks = [alice.talk("bob", PACE), bob.talk("alice", PACE), alice.talk("carol", PACE)];
    for _ in 0..2 {
        ledger.progress(300).await;
        let before = members(&cluster).await;
        for index in 0..3 {
            cluster.kill(index);
        }
        for index in 0..3 {
            cluster.restart(index);
        }
        for index in 0..3 {
            cluster.ready(index).await;
        }
        cluster.voters(3).await;
        assert_eq!(members(&cluster).await, before, "the members are the same");
        ledger.progress(300).await;
    }
    for talk in talks {
        talk.stop().await;
    }
    let carol = Person::connect(&cluster, &ledger, "carol", "phone", &[2]).await;
    ledger.settled().await;
    drop(carol);
}

/// The ids of the members, and their roles.
async fn members(cluster: &TestCluster) -> Vec<(String, String)> {
    let status = eventually("a status", async || cluster.status(0).await).await;
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let nodes = status["nodes"].as_array().expect("a list of members").iter();
    let mut members: Vec<_> = nodes.map(|node| (text(&node["node"]), text(&node["role"]))).collect();
    members.sort();
    members
}
