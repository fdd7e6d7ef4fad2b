//! A user's tokens are revoked while its devices are connected to all nodes.

use cluster::env::clock;
use im_gateway::client::Stopped;

use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::raw::{Got, Raw};
use crate::common::{TestCluster, eventually, token};

/// A token of the same second as a revocation is taken for older, so whoever logs in again waits for the next.
async fn next_second() {
    let now_s = clock::wall_ms() / 1000;
    eventually("the next second", async || (clock::wall_ms() / 1000 > now_s).then_some(())).await;
}

#[tokio::test]
async fn revoked_tokens_lose_their_sessions_on_every_node_and_get_none() {
    let mut cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    let bob = Person::connect(&cluster, &ledger, "bob", "d", &[1]).await;
    let mut alices = Vec::new();
    for node in 0..3 {
        alices.push(Person::connect(&cluster, &ledger, "alice", &format!("d{node}"), &[node]).await);
    }
    let old = token("alice");
    eventually("the level is raised", async || {
        cluster.operator(1, &["revoke", "--user", "nobody", "--before", "1"]).await.ok()
    })
    .await;
    assert!(alices.iter().all(|alice| alice.stopped().is_none()), "others' revocations are none of hers");
    cluster.operator(1, &["revoke", "--user", "alice", "--before", "1000"]).await.expect("it is carried out");
    assert!(alices.iter().all(|alice| alice.stopped().is_none()), "her tokens are newer");

    cluster.operator(2, &["revoke", "--user", "alice"]).await.expect("it is carried out");
    for (node, alice) in alices.iter().enumerate() {
        let stopped = eventually(&format!("alice stops on node {node}"), async || alice.stopped()).await;
        assert!(matches!(stopped, Stopped::Refused { code: 4500, .. }), "{stopped:?}");
    }
    for node in 0..3 {
        let mut raw = Raw::open(&cluster.addr(node)).await;
        raw.text(&format!(r#"{{"id":1,"hello":{{"token":"{old}","device":"d0","attempt":9}}}}"#)).await;
        let Got::Frame(error) = raw.next().await else { panic!("an error frame") };
        assert_eq!(error["error"]["code"], "bad_token", "{error}");
        assert_eq!(raw.next().await, Got::Closed(4500));
        let in_header =
            format!("GET /ws HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {old}\r\nconnection: close\r\n\r\n");
        let answer = crate::common::http::request(&cluster.addr(node), &in_header).await.expect("an answer");
        assert!(answer.status == 401 && answer.body.contains("revoked"), "{} {}", answer.status, answer.body);
    }
    assert!(bob.stopped().is_none() && bob.connections() == 1);

    // It is kept over restarts, and by a node that was not there.
    cluster.kill(0);
    next_second().await;
    // It may have led: then that is refused until another does.
    cluster.command(1, &["revoke", "--user", "alice"]).await;
    let between = token("alice");
    next_second().await;
    cluster.restart(0);
    cluster.ready(0).await;
    eventually("node 0 knows of it", async || {
        let mut raw = Raw::open(&cluster.addr(0)).await;
        raw.text(&format!(r#"{{"id":1,"hello":{{"token":"{between}","device":"d9"}}}}"#)).await;
        matches!(raw.next().await, Got::Frame(frame) if frame["error"]["code"] == "bad_token").then_some(())
    })
    .await;
    let again = Person::connect(&cluster, &ledger, "alice", "d0", &[0]).await;
    bob.say_many("alice", 5).await;
    again.say_many("bob", 5).await;
    eventually("she is there again", async || (ledger.count("alice", "d0") >= 5).then_some(())).await;
    let refused = cluster.operator(1, &["revoke", "--user", "alice", "--before", "99999999999"]).await;
    assert!(refused.expect_err("too far ahead").contains("more than an hour ahead"));
}
