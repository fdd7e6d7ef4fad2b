//! The breaker: messages are stored and not delivered while it is open, on all nodes, whatever restarts.

use std::time::Duration;

use serde_json::json;

use crate::common::raw::Raw;
use crate::common::{TestCluster, eventually, http};

async fn switch(cluster: &TestCluster, index: usize, state: &str) {
    let answer = http::post(&cluster.addr(index), &format!("/admin/breaker/{state}")).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn shown(cluster: &TestCluster, state: &str) {
    eventually(&format!("all nodes show the breaker as {state}"), async || {
        for index in cluster.running() {
            let open = cluster.metric(index, "im_gateway_breaker_open", "").await?;
            let said = cluster.status(index).await?["breaker"] == state;
            if !said || (open == 1.0) != (state == "open") {
                return None;
            }
        }
        Some(())
    })
    .await;
}

async fn say(alice: &mut Raw, n: u64) {
    alice.send(json!({"id": n, "send": {"to": "bob", "key": format!("k{n}"), "body": n}})).await;
    assert!(alice.answer(n).await["ok"].is_object(), "#{n} is stored");
}

#[tokio::test]
async fn open_it_stores_and_closed_it_delivers() {
    let mut cluster = TestCluster::start(3).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let mut bob = Raw::welcome(&cluster.addr(1), "bob", "phone").await;
    say(&mut alice, 1).await;
    let first = bob.frame_with("msg").await;
    switch(&cluster, 2, "open").await;
    switch(&cluster, 0, "open").await;
    shown(&cluster, "open").await;
    say(&mut alice, 2).await;
    // Everything else goes on: acknowledgements, presence, new sessions.
    bob.send(json!({"ack": first["seq"]})).await;
    assert_eq!(alice.frame_with("delivered").await["delivered"]["by"], "bob");
    let mut laptop = Raw::welcome(&cluster.addr(2), "bob", "laptop").await;
    // Restarted nodes know that it is open: from the log, and from each other.
    cluster.kill(2);
    assert!(matches!(laptop.next().await, crate::common::raw::Got::Broken(_)));
    cluster.restart(2);
    cluster.ready(2).await;
    shown(&cluster, "open").await;
    let mut laptop = Raw::welcome(&cluster.addr(2), "bob", "laptop").await;
    say(&mut alice, 3).await;
    for device in [&mut bob, &mut laptop] {
        assert_eq!(device.next_within(Duration::from_millis(300)).await, None, "nothing is delivered");
    }
    switch(&cluster, 1, "close").await;
    shown(&cluster, "closed").await;
    for (device, first) in [(&mut bob, 2), (&mut laptop, 3)] {
        for n in first..=3 {
            let frame = device.frame_with("msg").await;
            assert_eq!(frame["msg"]["body"], n, "in order");
            device.send(json!({"ack": frame["seq"]})).await;
        }
    }
    let refused = http::post(&cluster.addr(0), "/admin/breaker/ajar").await.expect("an answer");
    assert_eq!(refused.status, 404);
}
