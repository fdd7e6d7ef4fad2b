//! A node that is stopped in good order interrupts nobody.

use std::time::Duration;

use serde_json::json;

use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::raw::Raw;
use crate::common::{TestCluster, eventually};

const PACE: Duration = Duration::from_millis(10);

#[tokio::test]
async fn a_rolling_restart_interrupts_nobody() {
    let mut cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    // Each knows one node only: where else to go, nodes must tell.
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[1]).await;
    let carol = Person::connect(&cluster, &ledger, "carol", "phone", &[2]).await;
    let talks = [alice.talk("bob", PACE), bob.talk("carol", PACE), carol.talk("alice", PACE)];
    for node in 0..3 {
        ledger.progress(100).await;
        cluster.signal(node, libc::SIGTERM);
        assert_eq!(cluster.ended(node).await, Some(0), "node {node} ends in good order");
        ledger.progress(100).await;
        cluster.restart(node);
        cluster.ready(node).await;
    }
    for talk in talks {
        talk.stop().await;
    }
    ledger.settled().await;
    for person in [&alice, &bob, &carol] {
        assert_eq!(person.ends(), Vec::<String>::new(), "{} saw its connection end", person.name);
        assert!(person.connections() > 1, "{} was moved", person.name);
    }
}

#[tokio::test]
async fn the_end_of_a_single_node_is_no_error() {
    let mut cluster = TestCluster::start(1).await;
    let free = cluster.metric(0, "im_gateway_data_free_bytes", "").await.expect("metrics");
    let size = cluster.metric(0, "im_gateway_data_size_bytes", "").await.expect("metrics");
    assert!(0.0 < free && free <= size, "{free} of {size}");
    cluster.signal(0, libc::SIGTERM);
    assert_eq!(cluster.ended(0).await, Some(0));
    let log = cluster.log(0);
    let errors: Vec<_> = log.lines().filter(|line| line.contains("\"level\":\"ERROR\"")).collect();
    assert!(log.contains("stopping") && errors.is_empty(), "{errors:#?}");
}

#[tokio::test]
async fn a_drained_leader_has_no_clients_and_leads_no_more() {
    let cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    cluster.lead(0).await;
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[1]).await;
    let talks = [alice.talk("bob", PACE), bob.talk("alice", PACE)];
    let mut deaf = Raw::welcome(&cluster.addr(0), "deaf", "phone").await;
    ledger.progress(20).await;
    cluster.operator(0, &["drain"]).await.expect("it is drained");
    ledger.progress(20).await;
    for talk in talks {
        talk.stop().await;
    }
    ledger.settled().await;
    assert_eq!((alice.ends(), bob.ends()), (vec![], vec![]));
    assert_ne!(alice.node(), Some(cluster.addr(0)));
    // Who does not listen is told, given its time, and then ended.
    let (code, frames) = deaf.closed().await;
    assert_eq!(code, 1012);
    let away = frames.iter().find(|frame| frame["go_away"]["url"].is_string()).expect("it is told where to go");
    let url = away["go_away"]["url"].as_str().expect("a URL").to_owned();
    assert!(url == cluster.url(1) || url == cluster.url(2), "{away}");
    assert!(away["go_away"]["after_ms"].as_u64().is_some_and(|ms| ms > 0), "{away}");
    let told = cluster.metric(0, "im_gateway_go_away_total", "drain").await.expect("metrics");
    assert!(told >= 2.0, "{told} were told");
    eventually("nobody is left to move", async || {
        (cluster.metric(0, "im_gateway_draining_connections", "").await? == 0.0).then_some(())
    })
    .await;
    let status = cluster.status(0).await.expect("it still answers");
    assert_eq!((&status["not_ready"], &status["local_sessions"]), (&json!(["draining"]), &json!(0)));
    assert_ne!(status["leader"], status["node"]);
    let mut newcomer = Raw::open(&cluster.addr(0)).await;
    newcomer.hello("newcomer", "phone").await;
    assert_eq!(newcomer.closed().await.0, 1012, "newcomers are sent on");
}

#[tokio::test]
async fn nobody_is_sent_to_a_node_that_drains_itself_and_the_last_one_keeps_its_clients() {
    let cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[1]).await;
    let talk = alice.talk("bob", PACE);
    for node in [0, 1] {
        let said = cluster.operator(node, &["drain"]).await.expect("it is drained");
        assert!(said.contains("has no clients left; it takes no new ones"), "{said}");
        let status = cluster.status(node).await.expect("it still answers");
        assert_ne!(status["leader"], status["node"]);
    }
    assert_eq!((alice.node(), bob.node()), (Some(cluster.addr(2)), Some(cluster.addr(2))));
    let refusal = cluster.operator(2, &["drain"]).await.expect_err("nobody is left to go to");
    assert!(refusal.contains("nowhere to go") && refusal.contains("--force"), "{refusal}");
    let forced = cluster.operator(2, &["drain", "--force"]).await.expect("as it was told");
    assert!(forced.contains("stay until it stops"), "{forced}");
    ledger.progress(20).await;
    talk.stop().await;
    ledger.settled().await;
    assert_eq!((alice.ends(), bob.ends()), (vec![], vec![]));
}
