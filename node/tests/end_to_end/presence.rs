//! Watchers know who is there, on whatever node; no short absence is told; and a death is.

use std::sync::Arc;

use cluster::env::clock;
use im_gateway::client::{Client, Event};
use im_gateway::env::Tcp;
use serde_json::{Value, json};

use crate::common::raw::Raw;
use crate::common::{PATIENCE, TestCluster, eventually, token};

/// Watches these users.
async fn watch(raw: &mut Raw, users: &[&str]) {
    raw.send(json!({"id": 3, "watch": {"users": users}})).await;
    assert_eq!(raw.answer(3).await["ok"], json!({}));
}

/// What is told until this user has as many devices, that included; in all of it each user's versions go on.
async fn until(raw: &mut Raw, user: &str, devices: u64) -> Vec<(String, u64)> {
    let mut told = Vec::new();
    let mut last: Option<u64> = None;
    loop {
        let presence = raw.frame_with("presence").await["presence"].take();
        let (who, count) =
            (presence["user"].as_str().expect("a name"), presence["devices"].as_u64().expect("a number"));
        assert_eq!(presence["status"], if count > 0 { "online" } else { "offline" });
        told.push((who.to_owned(), count));
        if who == user {
            let version = presence["v"].as_u64().expect("a number");
            assert!(last.replace(version).is_none_or(|last| last <= version), "{told:?}");
            if count == devices {
                return told;
            }
        }
    }
}

/// Waits until every node knows of as many sessions.
async fn sessions(cluster: &TestCluster, count: u64) {
    for index in cluster.running() {
        eventually("the sessions are known", async || {
            let status: Value = cluster.status(index).await?;
            (status["totals"]["sessions"] == count).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn coming_and_going_is_told_across_nodes() {
    let cluster = TestCluster::start(3).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    watch(&mut alice, &["bob", "alice"]).await;
    assert_eq!(until(&mut alice, "bob", 0).await, [("alice".to_owned(), 1), ("bob".to_owned(), 0)]);
    let phone = Raw::welcome(&cluster.addr(1), "bob", "phone").await;
    until(&mut alice, "bob", 1).await;
    let laptop = Raw::welcome(&cluster.addr(2), "bob", "laptop").await;
    until(&mut alice, "bob", 2).await;
    // Who asks later is told how it is.
    let mut carol = Raw::welcome(&cluster.addr(2), "carol", "phone").await;
    watch(&mut carol, &["bob"]).await;
    assert_eq!(until(&mut carol, "bob", 2).await, [("bob".to_owned(), 2)]);
    phone.leave().await;
    until(&mut alice, "bob", 1).await;
    laptop.leave().await;
    until(&mut alice, "bob", 0).await;
    until(&mut carol, "bob", 0).await;
    carol.send(json!({"id": 4, "unwatch": {"users": ["bob"]}})).await;
    assert_eq!(carol.answer(4).await["ok"], json!({}));
    watch(&mut carol, &["dave"]).await;
    let _bob = Raw::welcome(&cluster.addr(0), "bob", "phone").await;
    until(&mut alice, "bob", 1).await;
    let _dave = Raw::welcome(&cluster.addr(0), "dave", "phone").await;
    let told = until(&mut carol, "dave", 1).await;
    assert!(told.iter().all(|(who, _)| who == "dave"), "{told:?}");
    assert_eq!(cluster.metric(0, "im_gateway_presence_watches", "").await, Some(2.0));
}

#[tokio::test]
async fn who_is_back_soon_was_never_gone() {
    let cluster = TestCluster::start(3).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let bob = Raw::welcome(&cluster.addr(1), "bob", "phone").await;
    watch(&mut alice, &["bob", "carol"]).await;
    until(&mut alice, "bob", 1).await;
    sessions(&cluster, 2).await;
    // His connection is lost, all know; and he is back, on another node. Then as another device, as a page is that
    // was loaded again.
    drop(bob);
    sessions(&cluster, 1).await;
    let bob = Raw::welcome(&cluster.addr(2), "bob", "phone").await;
    sessions(&cluster, 2).await;
    bob.leave().await;
    sessions(&cluster, 1).await;
    let bob = Raw::welcome(&cluster.addr(1), "bob", "laptop").await;
    let _carol = Raw::welcome(&cluster.addr(1), "carol", "phone").await;
    let told = until(&mut alice, "carol", 1).await;
    assert!(!told.contains(&("bob".into(), 0)), "{told:?}");
    bob.leave().await;
    let told = until(&mut alice, "bob", 0).await;
    assert_eq!(told.last(), Some(&("bob".into(), 0)));
}

#[tokio::test]
async fn a_dead_nodes_users_are_gone() {
    let mut cluster = TestCluster::start(3).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let _bob = Raw::welcome(&cluster.addr(1), "bob", "phone").await;
    watch(&mut alice, &["bob"]).await;
    until(&mut alice, "bob", 1).await;
    cluster.kill(1);
    until(&mut alice, "bob", 0).await;
}

#[tokio::test]
async fn the_sdk_goes_on_watching_elsewhere() {
    let mut cluster = TestCluster::start(3).await;
    let urls = vec![cluster.url(0), cluster.url(1), cluster.url(2)];
    let builder = Client::builder(Arc::new(Tcp), urls, Arc::new(token("alice")), "phone");
    let alice = builder.first(0).connect().expect("the URLs are good");
    alice.watch(["bob"]);
    let online = async |wanted: bool| loop {
        let next = clock::timeout(PATIENCE, alice.next());
        if let Event::Presence { user, devices, .. } = next.await.expect("it is told").expect("it goes on") {
            assert_eq!(user, "bob");
            if (devices > 0) == wanted {
                return;
            }
        }
    };
    online(false).await;
    cluster.kill(0);
    let bob = Raw::welcome(&cluster.addr(1), "bob", "phone").await;
    online(true).await;
    bob.leave().await;
    online(false).await;
}

#[tokio::test]
async fn no_more_than_the_limit() {
    let cluster = TestCluster::start(1).await;
    let mut alice = Raw::open(&cluster.addr(0)).await;
    alice.hello("alice", "phone").await;
    let limit = alice.frame_with("welcome").await["welcome"]["limits"]["watches"].as_u64().expect("a limit");
    let names = |count: u64| (0..count).map(|n| format!("u{n}")).collect::<Vec<_>>();
    alice.send(json!({"id": 2, "watch": {"users": names(limit + 1)}})).await;
    assert_eq!(alice.answer(2).await["error"]["code"], "too_many_watches");
    alice.send(json!({"id": 3, "watch": {"users": names(limit)}})).await;
    assert_eq!(alice.answer(3).await["ok"], json!({}));
    alice.send(json!({"id": 4, "watch": {"users": ["v", "u0"]}})).await;
    assert_eq!(alice.answer(4).await["error"]["code"], "too_many_watches");
    alice.send(json!({"id": 5, "unwatch": {"users": ["u0", "nobody"]}})).await;
    alice.send(json!({"id": 6, "watch": {"users": ["v"]}})).await;
    assert_eq!(alice.answer(6).await["ok"], json!({}));
    alice.send(json!({"id": 7, "watch": {"users": [""]}})).await;
    assert_eq!(alice.answer(7).await["error"]["code"], "bad_recipient");
}
