//! One device, one session: the newest.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;

use crate::common::raw::{Got, Raw};
use crate::common::{TestCluster, token};

/// Sends a message to the user's own device and reads it: the session is the live one.
async fn is_live(raw: &mut Raw, user: &str, key: &str) {
    raw.send(json!({"id": 5, "send": {"to": user, "key": key, "body": key}})).await;
    loop {
        let msg = raw.frame_with("msg").await;
        raw.send(json!({"ack": msg["seq"]})).await;
        if msg["msg"]["body"] == key {
            return;
        }
    }
}

#[tokio::test]
async fn the_newer_session_wins_wherever_it_is() {
    let cluster = TestCluster::start(3).await;
    for (index, (first, second)) in [(0, 0), (0, 1), (1, 2), (2, 0)].into_iter().enumerate() {
        let user = format!("user-{index}");
        let mut older = Raw::welcome(&cluster.addr(first), &user, "phone").await;
        is_live(&mut older, &user, "older").await;
        let mut newer = Raw::welcome(&cluster.addr(second), &user, "phone").await;
        let (code, frames) = older.closed().await;
        assert_eq!(code, 4502, "from node {first} to node {second}");
        assert!(frames.iter().all(|frame| frame["msg"].is_null()), "nothing comes to the older: {frames:?}");
        is_live(&mut newer, &user, "newer").await;
        // Another device is another matter.
        let mut other = Raw::welcome(&cluster.addr(first), &user, "laptop").await;
        is_live(&mut other, &user, "other").await;
        is_live(&mut newer, &user, "still").await;
    }
}

#[tokio::test]
async fn an_older_attempt_of_the_same_client_yields() {
    let cluster = TestCluster::start(3).await;
    let hello = |attempt: u64| json!({"id": 1, "hello": {"token": token("alice"), "device": "phone", "instance": "i", "attempt": attempt}});
    let mut second = Raw::open(&cluster.addr(0)).await;
    second.send(hello(2)).await;
    second.frame_with("welcome").await;
    for node in 0..3 {
        let mut first = Raw::open(&cluster.addr(node)).await;
        first.send(hello(1)).await;
        assert_eq!(first.closed().await, (4005, vec![]), "on node {node}");
    }
    is_live(&mut second, "alice", "second").await;
    let mut third = Raw::open(&cluster.addr(1)).await;
    third.send(hello(3)).await;
    third.frame_with("welcome").await;
    assert_eq!(second.closed().await.0, 4502);
    is_live(&mut third, "alice", "third").await;
}

/// How a connection ended.
#[derive(Debug, PartialEq)]
enum End {
    Closed(u16),
    Reached,
}

/// Says hello, and stays until it is closed or a message comes.
async fn stay(addr: String) -> End {
    let mut raw = Raw::open(&addr).await;
    raw.hello("alice", "phone").await;
    loop {
        match raw.next().await {
            Got::Frame(frame) if frame["msg"].is_object() => return End::Reached,
            Got::Frame(frame) => assert!(frame["welcome"].is_object(), "{frame}"),
            Got::Closed(code) => return End::Closed(code),
            Got::Broken(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn of_many_at_once_exactly_one_stays() {
    const MANY: usize = 30;
    let cluster = TestCluster::start(3).await;
    let mut connections: FuturesUnordered<_> = (0..MANY).map(|index| stay(cluster.addr(index % 3))).collect();
    for _ in 1..MANY {
        assert_eq!(connections.next().await, Some(End::Closed(4502)));
    }
    let mut bob = Raw::welcome(&cluster.addr(0), "bob", "phone").await;
    bob.send(json!({"id": 2, "send": {"to": "alice", "key": "k", "body": "for the last"}})).await;
    assert_eq!(connections.next().await, Some(End::Reached));
}
