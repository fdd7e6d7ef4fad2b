//! Nodes come and go under traffic, and nothing is lost.

use std::time::Duration;

use serde_json::Value;

use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::{Options, TestCluster, eventually};

const PACE: Duration = Duration::from_millis(10);

#[tokio::test]
async fn a_fourth_and_a_fifth_node_join() {
    let mut cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[1]).await;
    let talks = [alice.talk("bob", PACE), bob.talk("alice", PACE)];
    ledger.progress(50).await;
    let (fourth, fifth) = (cluster.add(), cluster.add());
    for node in [fourth, fifth] {
        cluster.ready(node).await;
    }
    ledger.progress(50).await;
    // They serve: somebody on each, who writes to the other and to the old ones.
    let carol = Person::connect(&cluster, &ledger, "carol", "phone", &[fourth]).await;
    let dave = Person::connect(&cluster, &ledger, "dave", "phone", &[fifth]).await;
    carol.say_many("dave", 100).await;
    dave.say_many("carol", 100).await;
    carol.say_many("alice", 100).await;
    alice.say_many("dave", 100).await;
    for talk in talks {
        talk.stop().await;
    }
    ledger.settled().await;
    for node in 0..5 {
        let status = eventually("a status with all five", async || {
            let status = cluster.status(node).await?;
            (up(&status) == 5).then_some(status)
        })
        .await;
        assert_eq!(roles(&status), (3, 2), "voters and learners, as node {node} sees it");
    }
    assert_eq!((alice.ends(), bob.ends()), (vec![], vec![]), "nobody noticed");
}

#[tokio::test]
async fn a_node_whose_disk_was_wiped_joins_as_a_new_one() {
    let mut cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[2, 1]).await;
    let talks = [alice.talk("bob", PACE), bob.talk("alice", PACE)];
    ledger.progress(50).await;
    let old = cluster.node_id(2).await;
    cluster.kill(2);
    cluster.wipe(2);
    ledger.progress(50).await;
    cluster.restart(2);
    cluster.ready(2).await;
    let new = cluster.node_id(2).await;
    assert_ne!(new, old, "a wiped disk is a new node");
    // The old one cannot come back; the operator takes it out, and the new one gets its place.
    cluster.command(0, &["member", "remove", &old]).await;
    let status = eventually("three voters, all up", async || {
        let status = cluster.status(2).await?;
        (up(&status) == 3 && roles(&status) == (3, 0)).then_some(status)
    })
    .await;
    assert!(nodes(&status).all(|node| node["node"] != old), "{status}");
    ledger.progress(50).await;
    // The new one's vote counts: without another there is still a quorum.
    cluster.kill(1);
    ledger.progress(50).await;
    for talk in talks {
        talk.stop().await;
    }
    ledger.settled().await;
    assert_eq!(alice.ends(), Vec::<String>::new(), "who was elsewhere noticed nothing");
}

#[tokio::test]
async fn a_living_node_that_is_taken_out_sends_its_clients_away() {
    let cluster = TestCluster::start(4).await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[3, 1]).await;
    let talks = [alice.talk("bob", PACE), bob.talk("alice", PACE)];
    ledger.progress(50).await;
    let out = cluster.node_id(3).await;
    let leader = cluster.leader().await;
    if leader == 3 {
        cluster.lead(0).await;
    }
    cluster.command(0, &["member", "remove", &out]).await;
    bob.connected_times(2).await;
    eventually("it says that it has no quorum", async || {
        let status = cluster.status(3).await?;
        status["not_ready"].as_array()?.iter().any(|reason| reason == "no_quorum").then_some(())
    })
    .await;
    ledger.progress(50).await;
    for talk in talks {
        talk.stop().await;
    }
    ledger.settled().await;
    assert_eq!(alice.ends(), Vec::<String>::new(), "who was elsewhere noticed nothing");
}

#[tokio::test]
async fn a_founder_whose_disk_was_wiped_founds_no_second_cluster() {
    let founder_for_ever = true;
    let mut cluster = TestCluster::start_with(3, Options { founder_for_ever, ..Options::default() }).await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[1]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[2]).await;
    let talks = [alice.talk("bob", PACE), bob.talk("alice", PACE)];
    ledger.progress(50).await;
    let old = cluster.node_id(0).await;
    cluster.kill(0);
    cluster.wipe(0);
    ledger.progress(50).await;
    // It wakes up while nobody answers: that is no proof that there is nobody.
    for other in [1, 2] {
        cluster.signal(other, libc::SIGSTOP);
    }
    let before = cluster.log(0).len();
    cluster.restart(0);
    eventually("it has looked for the others", async || {
        let log = cluster.log(0).split_off(before);
        assert!(!log.contains("began a new cluster"), "{log}");
        log.contains("have said that they are in none").then_some(())
    })
    .await;
    for other in [1, 2] {
        cluster.signal(other, libc::SIGCONT);
    }
    cluster.ready(0).await;
    let new = cluster.node_id(0).await;
    assert_ne!(new, old, "a wiped disk is a new node");
    cluster.command(1, &["member", "remove", &old]).await;
    for node in 0..3 {
        let status = eventually("one cluster of three voters, all up", async || {
            let status = cluster.status(node).await?;
            (up(&status) == 3 && roles(&status) == (3, 0)).then_some(status)
        })
        .await;
        assert!(nodes(&status).any(|node| node["node"] == new), "{status}");
    }
    // Who comes by the new node is heard by those who were there before.
    let carol = Person::connect(&cluster, &ledger, "carol", "phone", &[0]).await;
    carol.say_many("alice", 50).await;
    for talk in talks {
        talk.stop().await;
    }
    ledger.settled().await;
}

#[tokio::test]
async fn who_would_remove_the_leader_is_told_a_command_that_exists() {
    let cluster = TestCluster::start(1).await;
    let leader = cluster.node_id(0).await;
    let refusal = cluster.operator(0, &["member", "remove", &leader]).await.expect_err("it leads");
    let advice = refusal.split('`').nth(1).and_then(|command| command.strip_prefix("im-gateway ")).expect("a command");
    let words: Vec<&str> = advice.split(' ').chain(["--help"]).collect();
    assert!(cluster.operator(0, &words).await.is_ok(), "{refusal}");
}

fn nodes(status: &Value) -> impl Iterator<Item = &Value> {
    status["nodes"].as_array().expect("a list of members").iter()
}

/// Members that are up.
fn up(status: &Value) -> usize {
    nodes(status).filter(|node| node["up"] == true).count()
}

/// Voters and learners.
fn roles(status: &Value) -> (usize, usize) {
    let count = |role: &str| nodes(status).filter(|node| node["role"] == role).count();
    (count("voter"), count("learner"))
}
