//! Slow and absent recipients cost nobody else anything, and nobody is left in the dark.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::env::clock;
use serde_json::{Value, json};

use crate::common::ledger::Ledger;
use crate::common::person::Person;
use crate::common::raw::{Got, Raw};
use crate::common::{Options, TestCluster, eventually};

/// Reads one message, acknowledges it, and says which of whose it is.
async fn read(raw: &mut Raw) -> (String, u64) {
    let frame = raw.frame_with("msg").await;
    raw.send(json!({"ack": frame["seq"]})).await;
    let from = frame["msg"]["from"].as_str().expect("a sender").to_owned();
    (from, frame["msg"]["body"]["n"].as_u64().expect("a number"))
}

#[tokio::test]
async fn a_slow_consumer_lags_and_catches_up() {
    const SENDERS: usize = 4;
    const EACH_PER_S: u64 = 250;
    const SECONDS: u64 = 10;
    const TOTAL: u64 = SENDERS as u64 * EACH_PER_S * SECONDS;
    const PAD: usize = 2_000;
    // All nodes hold what waits, 20 MB in all; the one that serves the slow consumer holds no more.
    const MORE_MIB: u64 = 8;
    let cluster = TestCluster::start(3).await;
    let ledger = Ledger::new();
    let mut slow = Raw::welcome(&cluster.addr(1), "slow", "phone").await;
    let mut senders = Vec::new();
    for index in 0..SENDERS {
        let name = format!("sender-{index}");
        senders.push(Person::connect(&cluster, &ledger, &name, "phone", &[index % 3]).await);
    }
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[1]).await;
    let bob = Person::connect(&cluster, &ledger, "bob", "phone", &[1]).await;
    let chat = [alice.talk("bob", Duration::from_millis(20)), bob.talk("alice", Duration::from_millis(20))];
    ledger.progress(50).await;
    let before = [0, 1, 2].map(|node| cluster.resident_bytes(node));

    let flood = async {
        let mut beat = clock::interval(Duration::from_millis(20));
        for _ in 0..SECONDS * 50 {
            for sender in &senders {
                for _ in 0..EACH_PER_S / 50 {
                    sender.say_padded("slow", PAD).await;
                }
            }
            beat.tick().await;
        }
    };
    let dawdle = async {
        let mut beat = clock::interval(Duration::from_millis(100));
        let mut came = Vec::new();
        while came.len() < (SECONDS * 10) as usize {
            came.push(read(&mut slow).await);
            beat.tick().await;
        }
        came
    };
    let (mut came, ()) = tokio::join!(dawdle, flood);
    // The others chat on as if nothing were.
    ledger.progress(100).await;
    for talk in chat {
        talk.stop().await;
    }
    ledger.settled().await;
    assert!(came.len() as u64 <= TOTAL / 50, "it lags");
    let grown = [0, 1, 2].map(|node| cluster.resident_bytes(node).saturating_sub(before[node]));
    let more = grown[1].saturating_sub(grown[0].max(grown[2])) >> 20;
    assert!(more < MORE_MIB, "its node's memory grew by {more} MiB more than that of the others");
    // Now it reads as fast as it can.
    while (came.len() as u64) < TOTAL {
        came.push(read(&mut slow).await);
    }
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for (from, n) in came {
        let last = last.entry(from).or_default();
        assert_eq!(n, *last + 1, "once and in order");
        *last = n;
    }
    assert_eq!(slow.next_within(Duration::ZERO).await, None, "nothing more");
    assert_eq!((alice.ends(), bob.ends()), (vec![], vec![]));
    assert!(senders.iter().all(|sender| sender.ends().is_empty()));
}

const INBOX: u64 = 50;

async fn small_inboxes() -> TestCluster {
    let replicated_limits = format!("inbox_messages = {INBOX}");
    TestCluster::start_with(3, Options { replicated_limits, ..Options::default() }).await
}

#[tokio::test]
async fn at_an_inbox_limit_the_device_that_lags_is_told_by_a_gap() {
    const CHUNK: u64 = INBOX / 2;
    const COUNT: u64 = 8 * CHUNK;
    let cluster = small_inboxes().await;
    let ledger = Ledger::new();
    let alice = Person::connect(&cluster, &ledger, "alice", "phone", &[0]).await;
    let phone = Person::connect(&cluster, &ledger, "bob", "phone", &[1]).await;
    let laptop = Person::connect(&cluster, &ledger, "bob", "laptop", &[2]).await;
    alice.say_many("bob", 10).await;
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
        alice.say_many("bob", CHUNK as usize).await;
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
    alice.say_many("bob", 10).await;
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
    assert!(matches!(bob.next_within(Duration::ZERO).await, None | Some(Got::Frame(Value::Null))));
}

/// Sends message `n` to bob; the answer.
async fn send(raw: &mut Raw, n: u64) -> Value {
    raw.send(json!({"id": n, "send": {"to": "bob", "key": format!("key-{n}"), "body": {"n": n}}})).await;
    raw.answer(n).await
}
