//! Faults on request, for drills: what they do, who may ask for them, and that they are not there otherwise.

use std::time::Duration;

use cluster::env::clock;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::common::raw::{Got, Raw};
use crate::common::{Options, TestCluster, eventually, http, token};

const LATENCY: &str = "/test/latency?delay=600ms";
const FAILURES: &str = "/test/failure-rate?rate=1";

async fn start(nodes: usize) -> TestCluster {
    TestCluster::start_with(nodes, Options { test_hooks: true, ..Options::default() }).await
}

async fn post(cluster: &TestCluster, path: &str) -> (u16, String) {
    let answer = http::post(&cluster.addr(0), path).await.expect("an answer");
    (answer.status, answer.body)
}

/// The first line of such an event.
async fn first(cluster: &TestCluster, event: &str) -> Value {
    let line = cluster.logged(0, &format!("\"event\":\"{event}\"")).await;
    serde_json::from_str(&line).expect("JSON")
}

#[tokio::test]
async fn without_leave_there_are_none() {
    let cluster = TestCluster::start(1).await;
    for path in [LATENCY, FAILURES] {
        assert_eq!(post(&cluster, path).await.0, 404, "{path}");
    }
    assert_eq!(http::get(&cluster.addr(0), "/test/echo").await.expect("an answer").status, 404);
}

#[tokio::test]
async fn bad_values_and_strangers_are_refused() {
    let cluster = start(1).await;
    for (path, word) in [
        ("/test/latency", "?delay=600ms"),
        ("/test/latency?delay=soon", "not a duration"),
        ("/test/latency?delay=2h", "at most 60s"),
        ("/test/failure-rate", "?rate=0.02"),
        ("/test/failure-rate?rate=1.5", "from 0 to 1"),
        ("/test/failure-rate?rate=-0.1", "from 0 to 1"),
        ("/test/failure-rate?rate=NaN", "from 0 to 1"),
    ] {
        let (status, body) = post(&cluster, path).await;
        assert!(status == 400 && body.contains(word), "{path}: {status} {body}");
    }
    // A page on another site, open in a browser of this machine.
    let addr = cluster.addr(0);
    for (method, path) in [("POST", LATENCY), ("POST", FAILURES), ("GET", "/test/echo")] {
        let foreign = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\norigin: http://evil.example\r\n\r\n");
        assert_eq!(http::request(&addr, &foreign).await.expect("an answer").status, 403, "{path}");
    }
    let wrong = format!("POST {LATENCY} HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer {}\r\n\r\n", token("a"));
    assert_eq!(http::request(&addr, &wrong).await.expect("an answer").status, 401);
}

#[tokio::test]
async fn deliveries_are_late_for_as_long_as_that_is_wanted() {
    const DELAY: Duration = Duration::from_millis(600);
    let cluster = start(1).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let mut bob = Raw::welcome(&cluster.addr(0), "bob", "phone").await;
    assert_eq!(post(&cluster, LATENCY).await.0, 200);
    for n in 1..=3 {
        let sent = clock::now();
        alice.send(json!({"id": n, "send": {"to": "bob", "key": format!("k{n}"), "body": n}})).await;
        assert!(alice.answer(n).await["ok"].is_object(), "what is stored is said at once");
        let frame = bob.frame_with("msg").await;
        assert!(sent.elapsed() >= DELAY, "#{n} came after {:?}", sent.elapsed());
        assert_eq!(frame["msg"]["body"], n);
        bob.send(json!({"ack": frame["seq"]})).await;
    }
    eventually("the latency is counted", async || {
        let slow = cluster.metric(0, "im_gateway_message_delivery_latency_seconds_count", "direct").await?;
        let fast = cluster.metric(0, "im_gateway_message_delivery_latency_seconds_bucket", "le=\"0.5\",").await?;
        (slow == 3.0 && fast == 0.0).then_some(())
    })
    .await;
    let line = first(&cluster, "high_latency").await;
    assert_eq!((&line["user_id"], line["group_id"].as_str()), (&json!("bob"), None), "{line}");
    assert!(line["msg_id"].as_str().is_some_and(|mid| mid.len() == 32), "{line}");
    assert!(line["latency_ms"].as_u64().is_some_and(|ms| ms >= 600), "{line}");
    let line = first(&cluster, "message_delivered").await;
    assert_eq!(line["user_id"], "bob", "{line}");
    assert!(line["latency_ms"].as_u64().is_some_and(|ms| ms >= 600), "{line}");
    assert_eq!(post(&cluster, "/test/latency?delay=0ms").await.0, 200);
    for n in 4..=200 {
        alice.send(json!({"id": n, "send": {"to": "bob", "key": format!("k{n}"), "body": n}})).await;
        assert_eq!(bob.frame_with("msg").await["msg"]["body"], n, "in order, each once");
    }
}

#[tokio::test]
async fn a_share_of_sends_fails_for_good_and_is_counted() {
    const COUNT: u64 = 200;
    let cluster = start(3).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let mut bob = Raw::welcome(&cluster.addr(1), "bob", "phone").await;
    let send = |n: u64| json!({"id": n, "send": {"to": "bob", "key": format!("k{n}"), "body": n}});
    // Stored before: an error would be a lie.
    alice.send(send(COUNT + 1)).await;
    assert!(alice.answer(COUNT + 1).await["ok"].is_object());
    assert_eq!(post(&cluster, "/test/failure-rate?rate=0.5").await.0, 200);
    let mut stored = vec![COUNT + 1];
    let mut failed = Vec::new();
    for n in 1..=COUNT {
        alice.send(send(n)).await;
        let answer = alice.answer(n).await;
        if answer["ok"].is_object() {
            stored.push(n);
        } else {
            assert_eq!(answer["error"]["code"], "inbox_full", "{answer}");
            failed.push(n);
        }
    }
    assert!((60..140).contains(&failed.len()), "{} of {COUNT} failed", failed.len());
    assert_eq!(post(&cluster, FAILURES).await.0, 200);
    for n in [COUNT + 1, stored[1], failed[0]] {
        alice.send(send(n)).await;
        assert_eq!(alice.answer(n).await["ok"].is_object(), n != failed[0], "#{n}: a repeat has the first answer");
    }
    assert_eq!(post(&cluster, "/test/failure-rate?rate=0").await.0, 200);
    // On any node, for as long as the cluster remembers the send.
    let mut elsewhere = Raw::welcome(&cluster.addr(2), "alice", "phone").await;
    elsewhere.send(send(failed[0])).await;
    assert_eq!(elsewhere.answer(failed[0]).await["error"]["code"], "inbox_full");
    elsewhere.send(send(COUNT + 2)).await;
    assert!(elsewhere.answer(COUNT + 2).await["ok"].is_object(), "it is over");
    stored.push(COUNT + 2);
    for n in stored {
        assert_eq!(bob.frame_with("msg").await["msg"]["body"], n, "what failed, nobody sees");
    }
    let counted = cluster.metric(0, "im_gateway_messages_failed_total", "reason=\"inbox_full\"").await;
    assert_eq!(counted, Some(failed.len() as f64));
    assert!(bob.bye().await.iter().all(|frame| frame["msg"].is_null()));
}

#[tokio::test]
async fn the_echo_says_everything_back() {
    let cluster = start(1).await;
    let mut echo = Raw::open_at(&cluster.addr(0), "/test/echo").await;
    let all = [
        Message::text("hello"),
        Message::text(""),
        Message::text("ü".repeat(20_000)),
        Message::binary(vec![0, 255, 7]),
        Message::binary(vec![9; 65_536]),
    ];
    for message in &all {
        echo.message(message.clone()).await;
    }
    for message in all {
        assert_eq!(echo.raw_message().await, message);
    }
    echo.message(Message::Ping(vec![1, 2].into())).await;
    assert_eq!(echo.raw_message().await, Message::Pong(vec![1, 2].into()));
    echo.message(Message::binary(vec![9; 65_537])).await;
    assert_eq!(echo.next().await, Got::Closed(1009), "the limit is that of clients");
    let mut broken = Raw::open_at(&cluster.addr(0), "/test/echo").await;
    broken.bytes(&[0xff, 0x80, 0, 0, 0, 0]).await;
    assert_eq!(broken.next().await, Got::Closed(1002));
    Raw::open_at(&cluster.addr(0), "/test/echo").await.leave().await;
}
