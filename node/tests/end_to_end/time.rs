//! What time does by itself: messages expire, devices are forgotten, tokens end.

use cluster::env::clock;
use serde_json::json;

use crate::common::raw::Raw;
use crate::common::{Options, SECRET, TestCluster, eventually};

async fn total(cluster: &TestCluster, what: &str) -> u64 {
    cluster.status(0).await.expect("a status")["totals"][what].as_u64().expect("a number")
}

async fn say(raw: &mut Raw, id: u64, to: &str) {
    raw.send(json!({"id": id, "send": {"to": to, "key": format!("k-{id}"), "body": id}})).await;
    assert!(raw.answer(id).await["ok"]["mid"].is_string());
}

#[tokio::test]
async fn what_nobody_fetched_in_time_becomes_a_gap() {
    let limits = "message_ttl_ms = 1000".to_owned();
    let cluster = TestCluster::start_with(1, Options { replicated_limits: limits, ..Options::default() }).await;
    Raw::welcome(&cluster.addr(0), "bob", "phone").await.leave().await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    for id in 2..5 {
        say(&mut alice, id, "bob").await;
    }
    eventually("they expire", async || (total(&cluster, "inbox_messages").await == 0).then_some(())).await;
    assert_eq!(cluster.metric(0, "im_gateway_messages_failed_total", "expired").await, Some(3.0));
    let mut bob = Raw::welcome(&cluster.addr(0), "bob", "phone").await;
    let gap = bob.frame_with("gap").await;
    assert_eq!(gap["gap"], json!({"reason": "expired", "lost": 3}));
}

#[tokio::test]
async fn a_device_that_stays_away_is_forgotten_and_begins_afresh() {
    let limits = "device_ttl_ms = 1000".to_owned();
    let cluster = TestCluster::start_with(1, Options { replicated_limits: limits, ..Options::default() }).await;
    let mut phone = Raw::welcome(&cluster.addr(0), "bob", "phone").await;
    Raw::welcome(&cluster.addr(0), "bob", "old-phone").await.leave().await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    say(&mut alice, 2, "bob").await;
    assert_eq!(total(&cluster, "devices").await, 3);
    eventually("it is forgotten", async || (total(&cluster, "devices").await == 2).then_some(())).await;
    phone.frame_with("msg").await;
    let mut old = Raw::welcome(&cluster.addr(0), "bob", "old-phone").await;
    say(&mut alice, 3, "bob").await;
    assert_eq!(old.frame_with("msg").await["msg"]["body"], json!(3), "what came while it was away was the other's");
}

#[tokio::test]
async fn a_users_devices_are_counted() {
    let limits = "devices_per_user = 2".to_owned();
    let cluster = TestCluster::start_with(1, Options { replicated_limits: limits, ..Options::default() }).await;
    let mut first = Raw::welcome(&cluster.addr(0), "bob", "a").await;
    Raw::welcome(&cluster.addr(0), "bob", "b").await.leave().await;
    let mut third = Raw::open(&cluster.addr(0)).await;
    third.hello("bob", "c").await;
    assert_eq!(third.closed().await.0, 4504);
    // The first one makes room.
    first.send(json!({"id": 2, "forget": {"device": "b"}})).await;
    assert!(first.answer(2).await["ok"].is_object());
    Raw::welcome(&cluster.addr(0), "bob", "c").await.leave().await;
}

#[tokio::test]
async fn a_session_ends_with_its_token_unless_it_gets_another_one() {
    let auth = Some(format!("secret = \"{SECRET}\"\nleeway_s = 0"));
    let cluster = TestCluster::start_with(1, Options { auth, ..Options::default() }).await;
    let token =
        |lasts_ms| im_gateway::auth::issue(SECRET, "bob", None, clock::wall_ms() + lasts_ms).expect("it is signed");
    let mut sessions = Vec::new();
    for device in ["refreshes", "does-not"] {
        let mut raw = Raw::open_with(&cluster.addr(0), &token(3_000)).await;
        raw.send(json!({"id": 1, "hello": {"device": device, "attempt": 1}})).await;
        assert!(raw.answer(1).await["welcome"].is_object());
        sessions.push(raw);
    }
    let (mut lapsed, mut refreshed) = (sessions.pop().expect("two"), sessions.pop().expect("two"));
    refreshed.send(json!({"id": 2, "refresh": {"token": token(60_000)}})).await;
    assert!(refreshed.answer(2).await["ok"].is_object());
    assert_eq!(lapsed.closed().await.0, 4501);
    refreshed.send(json!({"ping": {}})).await;
    refreshed.frame_with("pong").await;
}
