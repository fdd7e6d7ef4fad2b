//! What became of a message, asked of the whole cluster.

use serde_json::{Value, json};

use crate::common::raw::Raw;
use crate::common::{TestCluster, eventually};

/// The steps of a message, as `trace --json` tells them: step, user, and the node's place.
async fn steps(cluster: &TestCluster, through: usize, mid: &str) -> Vec<(String, String, String)> {
    let said = cluster.operator(through, &["trace", mid, "--json"]).await.unwrap_or_default();
    let told: Value = serde_json::from_str(&said).unwrap_or_default();
    let text = |step: &Value, name: &str| step[name].as_str().unwrap_or_default().to_owned();
    let steps = told["steps"].as_array().cloned().unwrap_or_default();
    steps.iter().map(|step| (text(step, "step"), text(step, "user"), text(step, "node"))).collect()
}

#[tokio::test]
async fn a_message_is_traced_over_the_nodes_that_it_passed() {
    let cluster = TestCluster::start(3).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let mut bob = Raw::welcome(&cluster.addr(1), "bob", "laptop").await;
    alice.send(json!({"id": 2, "send": {"to": "bob", "key": "k-1", "body": "Hello"}})).await;
    let ok = alice.answer(2).await;
    let mid = ok["ok"]["mid"].as_str().expect("it is stored").to_owned();
    let message = bob.frame_with("msg").await;
    bob.send(json!({"ack": message["seq"]})).await;
    alice.frame_with("delivered").await;

    let (origin, other) = (cluster.node_id(0).await, cluster.node_id(1).await);
    let expected = [
        ("received", "alice", &origin),
        ("stored", "alice", &origin),
        ("sent", "bob", &other),
        ("acked", "bob", &other),
    ];
    let mut expected: Vec<_> =
        expected.map(|(step, user, node)| (step.to_owned(), user.to_owned(), node.clone())).to_vec();
    expected.sort();
    // The third node saw nothing of it, and knows whom to ask.
    let mut told = eventually("all steps are told", async || {
        let told = steps(&cluster, 2, &mid).await;
        (told.len() == 4).then_some(told)
    })
    .await;
    told.sort();
    assert_eq!(told, expected);

    // What waits is found where it waits; a gap, on whichever node it was told, names what it may count.
    alice.send(json!({"id": 3, "send": {"to": "carol", "key": "k-2", "body": "Anybody there?"}})).await;
    let mid = alice.answer(3).await["ok"]["mid"].as_str().expect("it is stored").to_owned();
    let said = cluster.operator(2, &["trace", &mid]).await.expect("it is remembered");
    assert!(said.contains("waits at ") && !said.contains("not acked by"), "{said}");
    let mut carol = Raw::welcome(&cluster.addr(1), "carol", "tab").await;
    carol.frame_with("msg").await;
    eventually("who has it is told", async || {
        let said = cluster.operator(2, &["trace", &mid]).await.expect("it is remembered");
        (said.contains("sent to carol/tab at ") && said.contains("not acked by tab")).then_some(())
    })
    .await;

    let unknown = cluster.operator(2, &["trace", &"0".repeat(32)]).await.expect_err("nobody knows it");
    assert!(unknown.contains("no node remembers"), "{unknown}");
    let wrong = cluster.operator(2, &["trace", "nonsense"]).await.expect_err("that is no id");
    assert!(wrong.contains("32 hexadecimal digits"), "{wrong}");
}
