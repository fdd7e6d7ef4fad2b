//! Slow and absent recipients cost nobody else anything, and nobody is left in the dark.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::env::clock;
use serde_json::{Value, json};

use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::raw::Raw;
use crate::common::{Options, TestCluster, eventually};

/// Reads one message, acknowledges it, and says which of whose it is.
async fn read(raw: &mut Raw) -> (String, u64) {
    let frame = raw.frame_with("msg").await;
    raw.send(json!({"ack": frame["seq"]})).await;
    let from = frame["msg"]["from"].as_str().expect("a sender").to_owned();
    (from, frame["msg"]["body"]["n"].as_u64().expect("a number"))
}

/// Of a hundred messages that come for it, a slow consumer reads one: 10 of 1,000 in a second, or the
/// same at whatever speed this machine goes.
#[tokio::test]
async fn a_slow_consumer_lags_and_catches_up() {
    const SENDERS: usize = 4;
    const TOTAL: u64 = 10_000;
    const PER_READ: u64 = 100;
    const PAD: usize = 2_000;
    /// The slow consumer's devices. Each lags by almost everything, so to keep what it lags by for
    /// each connection would take 300 MiB. All share one inbox, so its node needs 20 MiB for the
    /// bodies, as any other, and its caches of the log (32 MiB) and of the disk's pages (64 MiB).
    const DEVICES: usize = 16;
    const MORE_MIB: u64 = 160;
    let cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    let mut slow = Vec::new();
    for device in 0..DEVICES {
        slow.push((Raw::welcome(&cluster.addr(1), "slow", &format!("device-{device}")).await, Vec::new()));
    }
    let mut senders = Vec::new();
    for index in 0..SENDERS {
        let name = format!("sender-{index}");
        senders.push(Person::connect(&cluster, &ledger, &name, "phone", &[index % 3]).await);
    }
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[1]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[1]).await;
    let chat = [alice.talk("bob", Duration::from_millis(20)), bob.talk("alice", Duration::from_millis(20))];
    ledger.progress(50).await;
    let before = cluster.resident_bytes(1);

    let flood = async {
        let mut beat = clock::interval(Duration::from_millis(20));
        for _ in 0..TOTAL / 20 {
            for sender in &senders {
                for _ in 0..20 / SENDERS {
                    sender.say_padded("slow", PAD).await;
                }
            }
            beat.tick().await;
        }
    };
    let dawdle = async {
        let mut most = 0;
        for stored in (PER_READ..=TOTAL).step_by(PER_READ as usize) {
            let reached = async || (ledger.stored_for("slow") >= stored).then_some(());
            eventually("the flood goes on", reached).await;
            for (raw, came) in &mut slow {
                came.push(read(raw).await);
            }
            most = most.max(cluster.resident_bytes(1));
        }
        most
    };
    let chatted = ledger.count("alice", "phone").min(ledger.count("bob", "phone"));
    let (most, ()) = tokio::join!(dawdle, flood);
    // It lags by 99 of 100, at a cost that does not grow with its connections.
    assert_eq!(ledger.stored_for("slow"), TOTAL);
    assert!(slow.iter().all(|(_, came)| came.len() as u64 == TOTAL / PER_READ));
    let more = most.saturating_sub(before) >> 20;
    assert!(more < MORE_MIB, "its node's memory grew by {more} MiB");
    // The others have chatted on meanwhile, still do, and miss nothing.
    for name in ["alice", "bob"] {
        assert!(ledger.count(name, "phone") >= chatted + TOTAL / PER_READ, "{name} waited");
    }
    ledger.progress(100).await;
    let [from_alice, from_bob] = chat;
    let sent = (from_alice.stop().await, from_bob.stop().await);
    ledger.settled().await;
    assert_eq!((ledger.count("bob", "phone"), ledger.count("alice", "phone")), sent);
    // Now one device reads as fast as it can.
    let (mut raw, mut came) = slow.swap_remove(0);
    while (came.len() as u64) < TOTAL {
        came.push(read(&mut raw).await);
    }
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for (from, n) in came {
        let last = last.entry(from).or_default();
        assert_eq!(n, *last + 1, "once and in order");
        *last = n;
    }
    assert!(raw.bye().await.is_empty(), "nothing more");
    assert_eq!((alice.ends(), bob.ends()), (vec![], vec![]));
    assert!(senders.iter().all(|sender| sender.ends().is_empty()));
}

/// A client that writes faster than it may is read more slowly, and loses nothing by it.
#[tokio::test]
async fn a_client_is_read_no_faster_than_it_may_send() {
    const PER_S: u64 = 20;
    const COUNT: u64 = 3 * PER_S;
    let limits = format!("send_per_s = {PER_S}");
    let cluster = TestCluster::start_with(1, Options { limits, ..Options::default() }).await;
    let held_back = async || {
        let held_back = cluster.metric(0, "im_gateway_held_back_total", "rate=\"connection\"").await;
        held_back.expect("metrics")
    };
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let before = held_back().await;
    for n in 1..=COUNT {
        alice.send(json!({"id": n, "send": {"to": "bob", "key": format!("key-{n}"), "body": n}})).await;
    }
    for n in 1..=COUNT {
        let answer = alice.frame().await;
        assert!(answer["id"] == n && answer["ok"].is_object(), "#{n} is next, not {answer}");
    }
    assert!(held_back().await > before, "it was read as fast as it wrote");
    let mut bob = Raw::welcome(&cluster.addr(0), "bob", "phone").await;
    for n in 1..=COUNT {
        assert_eq!(bob.frame_with("msg").await["msg"]["body"], n, "once and in order");
    }
}

const INBOX: u64 = 50;

async fn inboxes_of(replicated_limits: String) -> TestCluster {
    TestCluster::start_with(3, Options { replicated_limits, ..Options::default() }).await
}

async fn small_inboxes() -> TestCluster {
    inboxes_of(format!("inbox_messages = {INBOX}")).await
}

#[tokio::test]
async fn at_an_inbox_limit_the_device_that_lags_is_told_by_a_gap() {
    the_device_that_lags_is_told(small_inboxes().await, 0).await;
}

/// Large messages reach the limit on bytes long before the one on their number.
#[tokio::test]
async fn at_an_inbox_limit_of_bytes_the_device_that_lags_is_told_by_a_gap() {
    const PAD: usize = 1_000;
    /// With its number and the JSON around it.
    const LARGEST: u64 = PAD as u64 + 100;
    the_device_that_lags_is_told(inboxes_of(format!("inbox_bytes = {}", INBOX * LARGEST)).await, PAD).await;
}

/// Sends so many messages to bob, each of so many bytes more.
async fn say(person: &Person, count: u64, pad: usize) {
    for _ in 0..count {
        person.say_padded("bob", pad).await;
    }
}

/// In a cluster where an inbox has space for some [`INBOX`] messages.
async fn the_device_that_lags_is_told(cluster: TestCluster, pad: usize) {
    const CHUNK: u64 = INBOX / 2;
    const COUNT: u64 = 8 * CHUNK;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0]).await;
    let phone = Person::connect(&cluster, &ledger, "bob", "phone", &[1]).await;
    let laptop = Person::connect(&cluster, &ledger, "bob", "laptop", &[2]).await;
    say(&alice, 10, pad).await;
    ledger.settled().await;
    laptop.leave().await;
    for sent in (10..10 + COUNT).step_by(CHUNK as usize) {
        // The phone keeps up: nothing waits for it, as its node has counted.
        eventually("the phone has acknowledged everything", async || {
            ledger.check();
            let acked = cluster.metric(1, "im_gateway_messages_delivered_total", "direct").await?;
            (acked == sent as f64).then_some(())
        })
        .await;
        say(&alice, CHUNK, pad).await;
        eventually("all are stored", async || (ledger.stored() == sent + CHUNK).then_some(())).await;
    }
    eventually("the phone has everything", async || {
        ledger.check();
        (ledger.count("bob", "phone") == COUNT + 10).then_some(())
    })
    .await;
    assert_eq!(ledger.lost("bob", "phone"), 0);
    // Back again: a gap for what is gone, and the rest. What the ledger counts as settled is both.
    let laptop = Person::connect(&cluster, &ledger, "bob", "laptop", &[0]).await;
    ledger.settled().await;
    let (came, lost) = (ledger.count("bob", "laptop"), ledger.lost("bob", "laptop"));
    assert!(lost > 0 && came + lost == COUNT + 10, "{came} came, {lost} were lost");
    // From now on it misses nothing.
    say(&alice, 10, pad).await;
    ledger.settled().await;
    assert_eq!(ledger.lost("bob", "laptop"), lost);
    drop((phone, laptop));
}

#[tokio::test]
async fn a_gap_comes_again_until_it_is_acknowledged() {
    let cluster = small_inboxes().await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    let mut phone = Raw::welcome(&cluster.addr(1), "bob", "phone").await;
    Raw::welcome(&cluster.addr(2), "bob", "laptop").await.leave().await;
    for n in 1..=2 * INBOX {
        assert!(send(&mut alice, n).await["ok"].is_object(), "#{n}");
        assert_eq!(read(&mut phone).await.1, n);
    }
    let mut seen = Vec::new();
    for node in 0..3 {
        let mut laptop = Raw::welcome(&cluster.addr(node), "bob", "laptop").await;
        let frame = laptop.frame().await;
        assert_eq!(frame["gap"]["reason"], "inbox_limit", "the gap is first: {frame}");
        seen.push(frame.clone());
        if node == 2 {
            laptop.send(json!({"ack": frame["seq"]})).await;
            let lost = frame["gap"]["lost"].as_u64().expect("a count");
            for n in lost + 1..=2 * INBOX {
                assert_eq!(read(&mut laptop).await.1, n, "goes on behind the gap");
            }
        }
        laptop.leave().await;
        // Only then its acknowledgements count for sure: those of a superseded session do not.
        eventually("its session has ended", async || {
            (cluster.status(0).await?["totals"]["sessions"] == 2).then_some(())
        })
        .await;
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    let mut laptop = Raw::welcome(&cluster.addr(0), "bob", "laptop").await;
    assert!(send(&mut alice, 2 * INBOX + 1).await["ok"].is_object());
    assert_eq!(read(&mut laptop).await.1, 2 * INBOX + 1, "the gap is done with");
}

#[tokio::test]
async fn sends_to_a_full_inbox_are_refused() {
    let cluster = small_inboxes().await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    Raw::welcome(&cluster.addr(1), "bob", "phone").await.leave().await;
    for n in 1..=INBOX {
        assert!(send(&mut alice, n).await["ok"].is_object(), "#{n}");
    }
    for n in [INBOX + 1, INBOX + 2, INBOX + 1] {
        let answer = send(&mut alice, n).await;
        assert_eq!(answer["error"]["code"], "inbox_full", "#{n}: {answer}");
    }
    // A repeat of what was stored is answered as before.
    assert!(send(&mut alice, INBOX).await["ok"].is_object());
    // Others are not concerned.
    let elsewhere = json!({"id": 1, "send": {"to": "carol", "key": "k", "body": {"n": 1}}});
    alice.send(elsewhere).await;
    assert!(alice.answer(1).await["ok"].is_object());
    // The device comes back, and there is space again.
    let mut bob = Raw::welcome(&cluster.addr(2), "bob", "phone").await;
    for n in 1..=INBOX {
        assert_eq!(read(&mut bob).await.1, n);
    }
    eventually("the inbox has space", async || {
        let totals = cluster.status(0).await?["totals"].clone();
        (totals["inbox_messages"].as_u64()? <= 1).then_some(())
    })
    .await;
    let refused_before = send(&mut alice, INBOX + 1).await;
    assert_eq!(refused_before["error"]["code"], "inbox_full", "an error is final: {refused_before}");
    assert!(send(&mut alice, INBOX + 3).await["ok"].is_object());
    assert_eq!(read(&mut bob).await.1, INBOX + 3, "of the refused ones none was ever seen");
    assert!(bob.bye().await.iter().all(|frame| frame["msg"].is_null()), "and nothing else came");
}

/// There is space for bytes to the last one, and again as soon as something was read.
#[tokio::test]
async fn sends_that_an_inbox_has_no_bytes_for_are_refused() {
    const BODY: usize = 1_000;
    let cluster = inboxes_of(format!("inbox_bytes = {}", 4 * BODY)).await;
    let mut alice = Raw::welcome(&cluster.addr(0), "alice", "phone").await;
    Raw::welcome(&cluster.addr(1), "bob", "phone").await.leave().await;
    for n in 1..=3 {
        assert!(send_bytes(&mut alice, n, BODY).await["ok"].is_object(), "#{n}");
    }
    there_is_space_for(BODY, &mut alice, 4).await;
    let mut bob = Raw::welcome(&cluster.addr(2), "bob", "phone").await;
    let first = bob.frame_with("msg").await;
    bob.send(json!({"ack": first["seq"]})).await;
    eventually("the inbox has space", async || {
        (cluster.status(0).await?["totals"]["inbox_bytes"] == 3 * BODY).then_some(())
    })
    .await;
    there_is_space_for(BODY, &mut alice, 7).await;
}

/// For exactly so many bytes there is, of which nothing is left then. Sends three messages, from `n` on.
async fn there_is_space_for(bytes: usize, alice: &mut Raw, n: u64) {
    let answer = send_bytes(alice, n, bytes + 1).await;
    assert_eq!(answer["error"]["code"], "inbox_full", "one byte too many: {answer}");
    let answer = send_bytes(alice, n + 1, bytes).await;
    assert!(answer["ok"].is_object(), "it fits: {answer}");
    let answer = send_bytes(alice, n + 2, 2).await;
    assert_eq!(answer["error"]["code"], "inbox_full", "the inbox is full: {answer}");
}

/// Sends message `n` to bob; the answer.
async fn send(raw: &mut Raw, n: u64) -> Value {
    send_body(raw, n, &json!({"n": n})).await
}

/// As [`send`], with a body of so many bytes, its quotes among them.
async fn send_bytes(raw: &mut Raw, n: u64, bytes: usize) -> Value {
    send_body(raw, n, &json!("x".repeat(bytes - 2))).await
}

async fn send_body(raw: &mut Raw, n: u64, body: &Value) -> Value {
    raw.send(json!({"id": n, "send": {"to": "bob", "key": format!("key-{n}"), "body": body}})).await;
    raw.answer(n).await
}
