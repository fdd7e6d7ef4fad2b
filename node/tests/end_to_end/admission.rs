//! Who may open connections, how long they may be silent at first, and how fast one user may send.

use std::time::Duration;

use cluster::env::clock;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::raw::{Raw, refused};
use crate::common::{Options, PATIENCE, TestCluster, eventually};

async fn cluster(admission: &str) -> TestCluster {
    TestCluster::start_with(1, Options { admission: admission.to_owned(), ..Options::default() }).await
}

async fn count(cluster: &TestCluster, limit: &str) -> f64 {
    cluster.metric(0, "im_gateway_connections_refused_total", limit).await.expect("metrics")
}

#[tokio::test]
async fn a_crowd_is_told_when_to_come_and_all_of_it_gets_in() {
    let cluster = cluster("per_s = 3").await;
    let ledger = Ledger::new();
    let people: Vec<_> = (0..12).map(|n| Person::begin(&cluster, &ledger, &format!("u{n}"), "d", &[0])).collect();
    for person in &people {
        person.connected().await;
    }
    assert!(count(&cluster, "node_rate").await > 0.0);
    let told = "no WebSocket: the node answered 503 Service Unavailable";
    assert!(people.iter().any(|person| person.ends().iter().any(|end| end == told)), "the SDK says why");
    // Whoever speaks HTTP by hand sees when to come again.
    let addr = cluster.addr(0);
    let answers = join_all((0..8).map(|_| refused(&addr, "connection: close\r\n"))).await;
    let answer = answers.iter().find(|answer| answer.status == 503).expect("more than a second's worth");
    assert!(answer.head.to_ascii_lowercase().contains("\r\nretry-after: 1"), "{}", answer.head);
    assert!(answer.body.contains("too_many_connections"), "{}", answer.body);
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_proxies_name_theirs() {
    let cluster = cluster("address_connections = 2\ntrusted_proxies = [\"127.0.0.0/8\"]").await;
    let first = Raw::welcome(&cluster.addr(0), "a", "d").await;
    let _second = Raw::welcome(&cluster.addr(0), "b", "d").await;
    let answer = refused(&cluster.addr(0), "connection: close\r\n").await;
    assert_eq!(answer.status, 429, "{}", answer.body);
    assert_eq!(count(&cluster, "address_connections").await, 1.0);
    let line = cluster.logged(0, "address_connections").await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&line["event"], &line["reason"]), (&json!("connection_error"), &json!("address_connections")));
    assert_eq!(line["remote_addr"], "127.0.0.1");
    let other = Raw::open_for(&cluster.addr(0), "192.0.2.1").await;
    assert!(other.is_ok(), "the proxy's other clients are others");
    first.leave().await;
    eventually("the place is free", async || Raw::try_open(&cluster.addr(0)).await.ok()).await;
}

#[tokio::test]
async fn an_address_opens_so_many_a_second_and_others_do_not_wait_for_it() {
    const PER_S: usize = 2;
    let admission = format!("address_per_s = {PER_S}\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let cluster = cluster(&admission).await;
    let addr = cluster.addr(0);
    let answers = join_all((0..4 * PER_S).map(|_| refused(&addr, "connection: close\r\n"))).await;
    let (opened, told): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 101);
    assert!(opened.len() >= PER_S, "only {} were let in", opened.len());
    assert!(!told.is_empty(), "more than a second's worth");
    for answer in &told {
        assert_eq!(answer.status, 429, "{}", answer.body);
        assert!(answer.head.to_ascii_lowercase().contains("\r\nretry-after: 1"), "{}", answer.head);
        assert!(answer.body.contains("too_many_connections"), "{}", answer.body);
    }
    assert_eq!(count(&cluster, "address_rate").await, told.len() as f64);
    assert_eq!(count(&cluster, "node_rate").await, 0.0);
    let other = Raw::open_for(&addr, "192.0.2.1").await;
    assert!(other.is_ok(), "the proxy's other clients have a rate of their own");
    eventually("its turn comes", async || Raw::try_open(&addr).await.ok()).await;
}

/// Whoever does not say what it wants holds no place for long, be it silent or never at an end.
#[tokio::test]
async fn a_request_has_its_time_to_be_asked_and_no_more() {
    /// As docs/protocol.md has it.
    const HEAD_WITHIN: Duration = Duration::from_secs(10);
    let cluster = cluster("").await;
    let addr = cluster.addr(0);
    let half = format!("GET /health HTTP/1.1\r\nhost: {addr}\r\nx-pad: ");
    let began = clock::now();
    let mut silent = TcpStream::connect(&addr).await.expect("the node takes it");
    let mut slow = TcpStream::connect(&addr).await.expect("the node takes it");
    for stream in [&mut silent, &mut slow] {
        stream.write_all(half.as_bytes()).await.expect("the node is there");
    }
    let closed = async {
        let mut said = Vec::new();
        silent.read_to_end(&mut said).await.expect("it ends in good order");
        (said, began.elapsed())
    };
    let cut_short = async {
        let mut beat = clock::interval(Duration::from_millis(100));
        while slow.write_all(b"x").await.is_ok() {
            beat.tick().await;
        }
    };
    let both = clock::timeout(PATIENCE, async { tokio::join!(closed, cut_short) }).await;
    let ((said, waited), ()) = both.expect("the node ends both");
    assert!(said.is_empty(), "nothing was asked: {}", String::from_utf8_lossy(&said));
    assert!(waited >= HEAD_WITHIN, "it had {waited:?} for its request");
}

#[tokio::test]
async fn a_user_sends_no_faster_by_more_devices() {
    const EACH: usize = 15;
    let cluster = cluster("user_send_per_s = 5").await;
    let ledger = Ledger::new();
    let _bob = Person::connect(&cluster, &ledger, "bob", "d", &[0]).await;
    let devices = [
        Person::connect(&cluster, &ledger, "alice", "d0", &[0]).await,
        Person::connect(&cluster, &ledger, "alice", "d1", &[0]).await,
    ];
    let began = clock::now();
    for device in &devices {
        device.say_many("bob", EACH).await;
    }
    ledger.settled().await;
    ledger.check();
    // Five at once, then five a second: both together, or it would be two seconds.
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_body_that_is_nested_too_deep_is_refused() {
    let cluster = cluster("").await;
    let mut raw = Raw::welcome(&cluster.addr(0), "alice", "d").await;
    let body = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let send = |id: u64, depth| format!(r#"{{"id":{id},"send":{{"to":"bob","key":"k{id}","body":{}}}}}"#, body(depth));
    raw.text(&send(2, 129)).await;
    assert_eq!(raw.answer(2).await["error"]["code"], json!("bad_frame"));
    raw.text(&send(3, 128)).await;
    assert!(raw.answer(3).await["ok"]["mid"].is_string());
}
