//! What became of a message, and why it did not arrive, asked of the whole cluster.

use cluster::id::{DeviceId, MessageId, UserId};
use serde_json::{Value, json};

use crate::common::raw::Raw;
use crate::common::{Options, TestCluster, eventually};

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

/// Few enough to have an inbox full soon.
const INBOX: u64 = 4;

async fn small_inboxes(nodes: usize) -> TestCluster {
    let replicated_limits = format!("inbox_messages = {INBOX}");
    TestCluster::start_with(nodes, Options { replicated_limits, ..Options::default() }).await
}

/// Sends message `n` of alice's; the answer.
async fn send(alice: &mut Raw, to: &str, n: u64) -> Value {
    alice.send(json!({"id": n, "send": {"to": to, "key": format!("k-{n}"), "body": n}})).await;
    alice.answer(n).await
}

#[tokio::test]
async fn that_a_device_lost_a_message_at_a_limit_is_told() {
    let cluster = small_inboxes(3).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let mut phone = Raw::welcome(&cluster.addr(1), "bob", "phone").await;
    Raw::welcome(&cluster.addr(2), "bob", "laptop").await.leave().await;
    let (mut mids, mut n) = (Vec::new(), 0);
    while mids.len() as u64 <= INBOX {
        n += 1;
        // It is refused until what the phone has acknowledged is passed in the log, too.
        let answer = send(&mut alice, "bob", n).await;
        let Some(mid) = answer["ok"]["mid"].as_str() else { continue };
        mids.push(mid.to_owned());
        let message = phone.frame_with("msg").await;
        phone.send(json!({"ack": message["seq"]})).await;
        // From now on only the laptop has it to come.
        alice.frame_with("delivered").await;
    }
    let mut laptop = Raw::welcome(&cluster.addr(2), "bob", "laptop").await;
    let gap = laptop.frame_with("gap").await;
    let (lost, seq) = (&gap["gap"]["lost"], &gap["seq"]);
    let missed = format!("may be one of {lost} that bob/laptop missed (inbox_limit) up to {seq}");

    // The laptop's node does not know the lost one's place by itself: the phone's does.
    let said = cluster.operator(0, &["trace", &mids[0]]).await.expect("it is remembered");
    assert!(said.contains("acked by bob/phone") && said.contains(&missed), "{said}");
    assert!(!said.contains("sent to bob/laptop") && !said.contains("waits at "), "{said}");
    // What comes behind the gap is none of what it counts.
    laptop.send(json!({"ack": gap["seq"]})).await;
    let mid = loop {
        n += 1;
        let answer = send(&mut alice, "bob", n).await;
        if let Some(mid) = answer["ok"]["mid"].as_str() {
            break mid.to_owned();
        }
    };
    while laptop.frame_with("msg").await["msg"]["body"] != n {}
    let said = cluster.operator(0, &["trace", &mid]).await.expect("it is remembered");
    assert!(said.contains("sent to bob/laptop") && !said.contains("missed"), "{said}");
}

#[tokio::test]
async fn that_a_send_was_refused_is_told() {
    let cluster = small_inboxes(1).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    Raw::welcome(&cluster.addr(0), "bob", "phone").await.leave().await;
    for n in 1..=INBOX {
        assert!(send(&mut alice, "bob", n).await["ok"].is_object(), "#{n}");
    }
    let refused = send(&mut alice, "bob", INBOX + 1).await;
    assert_eq!(refused["error"]["code"], "inbox_full", "{refused}");
    // The answer says no id; the node's log does, and whoever knows what was sent can work it out.
    let line = cluster.logged(0, "\"error\":\"inbox_full\"").await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    let mid = line["msg_id"].as_str().expect("it names the message");
    let name = |name| UserId::new(name).expect("a good name");
    let (phone, n) = (DeviceId::new("phone").expect("a good name"), INBOX + 1);
    let key = format!("k-{n}");
    let own = MessageId::direct(&name("alice"), &phone, &name("bob"), &key, n.to_string().as_bytes());
    assert_eq!(mid, own.to_string());

    let node = cluster.node_id(0).await;
    let expected = ["received", "refused"].map(|step| (step.to_owned(), "alice".to_owned(), node.clone()));
    assert_eq!(steps(&cluster, 0, mid).await, expected);
    let said = cluster.operator(0, &["trace", mid]).await.expect("it is remembered");
    assert!(said.contains("received from alice/phone to bob"), "{said}");
    assert!(said.contains("refused: alice/phone was told inbox_full"), "{said}");
}
