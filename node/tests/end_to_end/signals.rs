//! Typing and read marks reach all devices that are there, on whatever node, and are stored nowhere; and
//! a user sees to it which devices there are.

use std::sync::Arc;
use std::time::Duration;

use cluster::env::clock;
use cluster::id::MessageId;
use im_gateway::client::{Client, Event};
use im_gateway::env::Tcp;
use serde_json::json;

use crate::common::raw::Raw;
use crate::common::{Options, PATIENCE, TestCluster, eventually, token};

#[tokio::test]
async fn typing_and_reading_are_told_across_nodes() {
    let cluster = TestCluster::start(3).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let mut tablet = Raw::welcome(&cluster.addr(1), "alice", "tablet").await;
    let mut bob = Raw::welcome(&cluster.addr(2), "bob", "phone").await;
    bob.send(json!({"id": 1, "send": {"to": "alice", "key": "k", "body": "hello"}})).await;
    let mid = bob.answer(1).await["ok"]["mid"].clone();
    // Links between nodes and replicas' knowledge of sessions: both are there once a message came.
    alice.frame_with("msg").await;
    tablet.frame_with("msg").await;
    bob.send(json!({"typing": {"to": "alice"}})).await;
    assert_eq!(alice.frame_with("typing").await["typing"], json!({"from": "bob"}));
    assert_eq!(tablet.frame_with("typing").await["typing"], json!({"from": "bob"}));
    alice.send(json!({"id": 2, "read": {"from": "bob", "mid": mid}})).await;
    assert_eq!(alice.answer(2).await["ok"], json!({}));
    let read = json!({"by": "alice", "mid": mid});
    assert_eq!(bob.frame_with("read").await["read"], read, "the sender");
    assert_eq!(tablet.frame_with("read").await["read"], read, "the reader's other device");
    let told = async |node, kind: &str| {
        let label = format!("kind=\"{kind}\",outcome=\"told\"");
        cluster.metric(node, "im_gateway_signals_total", &label).await
    };
    assert_eq!(
        [told(0, "typing").await, told(1, "typing").await, told(2, "typing").await],
        [Some(1.0), Some(1.0), Some(0.0)]
    );
    assert_eq!(
        [told(0, "read").await, told(1, "read").await, told(2, "read").await],
        [Some(0.0), Some(1.0), Some(1.0)]
    );
    // Nobody is there: it is gone.
    bob.send(json!({"typing": {"to": "nobody"}})).await;
    bob.send(json!({"id": 3, "read": {"from": "nobody", "mid": mid}})).await;
    assert_eq!(bob.answer(3).await["ok"], json!({}));
}

/// Where a device does not read, what was typed to it meanwhile is dropped and counted, while its messages wait; who
/// reads beside it is told.
#[tokio::test]
async fn typing_is_dropped_before_any_message_waits_for_it() {
    // More than the kernel takes for a client that does not read.
    const PAD: usize = 60_000;
    const MESSAGES: u64 = 150;
    let limits = "window_bytes = 67108864".to_owned();
    let cluster = TestCluster::start_with(3, Options { limits, ..Options::default() }).await;
    let mut slow = Raw::welcome(&cluster.addr(0), "alice", "slow").await;
    let mut phone = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let mut bob = Raw::welcome(&cluster.addr(1), "bob", "phone").await;
    let say = async |bob: &mut Raw, n: u64| {
        let body = json!({"n": n, "pad": "x".repeat(PAD)});
        bob.send(json!({"id": n + 2, "send": {"to": "alice", "key": format!("k{n}"), "body": body}})).await;
        assert!(bob.answer(n + 2).await["ok"].is_object());
    };
    for n in 0..MESSAGES {
        say(&mut bob, n).await;
        let frame = phone.frame_with("msg").await;
        assert_eq!(frame["msg"]["body"]["n"], n);
        phone.send(json!({"ack": frame["seq"]})).await;
    }
    // What is on its way to the slow one fills its connection by now.
    let dropped = eventually("typing is dropped", async || {
        bob.send(json!({"typing": {"to": "alice"}})).await;
        phone.frame_with("typing").await;
        let label = "kind=\"typing\",outcome=\"dropped\"";
        cluster.metric(0, "im_gateway_signals_total", label).await.filter(|dropped| *dropped > 0.0)
    });
    dropped.await;
    say(&mut bob, MESSAGES).await;
    for n in 0..=MESSAGES {
        let frame = slow.frame_with("msg").await;
        assert_eq!(frame["msg"]["body"]["n"], n, "each message comes, in order");
        slow.send(json!({"ack": frame["seq"]})).await;
    }
}

#[tokio::test]
async fn a_user_forgets_a_device() {
    let cluster = TestCluster::start(3).await;
    let mut phone = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let old = Raw::welcome(&cluster.addr(1), "alice", "old").await;
    old.leave().await;
    let mut stolen = Raw::welcome(&cluster.addr(2), "alice", "stolen").await;
    for (id, device) in [(1, "old"), (2, "stolen"), (3, "never known")] {
        phone.send(json!({"id": id, "forget": {"device": device}})).await;
        assert_eq!(phone.answer(id).await["ok"], json!({}));
    }
    assert_eq!(stolen.closed().await.0, 4502);
    let devices = cluster.status(0).await.expect("it answers")["totals"]["devices"].clone();
    assert_eq!(devices, 1);
    // By the node that was asked, once; what is not known cannot be forgotten.
    let counted = async |node| cluster.metric(node, "im_gateway_devices_forgotten_total", "request").await;
    assert_eq!([counted(0).await, counted(1).await, counted(2).await], [Some(2.0), Some(0.0), Some(0.0)]);
    phone.send(json!({"id": 4, "forget": {"device": "phone"}})).await;
    assert_eq!(phone.answer(4).await["error"]["code"], "bad_recipient");
}

#[tokio::test]
async fn the_sdk_says_and_hears_them() {
    let cluster = TestCluster::start(3).await;
    let client = |name: &str, node| {
        let builder = Client::builder(Arc::new(Tcp), vec![cluster.url(node)], Arc::new(token(name)), "phone");
        builder.connect().expect("the URL is good")
    };
    let (alice, bob) = (client("alice", 0), client("bob", 1));
    let mid = MessageId([5; 16]);
    let hears = async {
        let (mut typing, mut read) = (false, false);
        while !(typing && read) {
            match alice.next().await.expect("it goes on") {
                Event::Typing { from } => typing |= from == "bob",
                Event::Read { by, mid: of } => read |= by == "bob" && of == mid,
                _ => {}
            }
        }
    };
    // They are dropped where somebody is not there yet, so they are said until they are heard.
    let says = async {
        loop {
            bob.typing("alice").expect("a name");
            bob.read("alice", mid).expect("a name");
            clock::sleep(Duration::from_millis(100)).await;
        }
    };
    let heard = async {
        tokio::select! {
            () = hears => {}
            () = says => {}
        }
    };
    clock::timeout(PATIENCE, heard).await.expect("both are heard");
}
