//! The ledger finds what it is there to find.

use std::sync::Arc;

use cluster::id::MessageId;
use im_gateway::client::Fate;

use crate::common::ledger::{Arrival, Ledger, Stream};

fn stream() -> Stream {
    Stream { from: "alice".into(), device: "phone".into(), to: "bob".into() }
}

fn mid(n: u64) -> MessageId {
    MessageId([u8::try_from(n).expect("few messages"); 16])
}

/// Three messages are sent and stored; these arrive at bob's phone, as (seq, number).
fn after(arrivals: &[(u64, u64)]) -> Arc<Ledger> {
    let ledger = Ledger::new();
    ledger.device("bob", "phone");
    for n in 1..=3 {
        assert_eq!(ledger.number(&stream()), n);
        ledger.fate(&stream(), n, &Fate::Stored(mid(n)));
    }
    for (seq, n) in arrivals {
        arrive(&ledger, "bob", "phone", *seq, *n, mid(*n));
    }
    ledger
}

fn arrive(ledger: &Ledger, user: &str, device: &str, seq: u64, n: u64, mid: MessageId) {
    let body = format!("{{\"n\":{n}}}");
    ledger.arrived(user, device, &Arrival { seq, mid, stream: stream(), body: &body });
}

fn faults(ledger: &Ledger) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ledger.check())).is_err()
}

#[tokio::test]
async fn is_content_when_all_is_well() {
    after(&[(10, 1), (20, 2), (30, 3)]).settled().await;
    let gap = after(&[(30, 3)]);
    gap.gap("bob", "phone", 2);
    gap.settled().await;
    assert_eq!((gap.count("bob", "phone"), gap.lost("bob", "phone"), gap.stored()), (1, 2, 3));
}

#[test]
fn finds_repeats_swaps_strangers_and_other_orders() {
    assert!(!faults(&after(&[(10, 1), (20, 3)])), "what is missing may still come");
    assert!(faults(&after(&[(10, 1), (20, 1)])), "twice");
    assert!(faults(&after(&[(10, 1), (10, 1)])), "twice at one place");
    assert!(faults(&after(&[(10, 2), (20, 1)])), "out of order");
    assert!(faults(&after(&[(20, 1), (10, 2)])), "places out of order");
    assert!(faults(&after(&[(10, 4)])), "never sent");
    let other = after(&[]);
    arrive(&other, "bob", "phone", 10, 1, mid(9));
    assert!(faults(&other), "another id than its ok");
    let stray = after(&[]);
    arrive(&stray, "carol", "phone", 10, 1, mid(1));
    assert!(faults(&stray), "somebody else's");
    let split = after(&[(10, 1), (20, 2)]);
    arrive(&split, "bob", "laptop", 10, 2, mid(2));
    assert!(faults(&split), "another order at another device");
    let refused = after(&[]);
    let n = refused.number(&stream());
    refused.fate(&stream(), n, &Fate::Unknown);
    assert!(faults(&refused), "not stored");
}

#[test]
fn knows_what_is_missing() {
    assert!(after(&[(10, 1), (20, 2), (30, 3)]).missing().is_empty());
    assert_eq!(after(&[(10, 1), (20, 3)]).missing(), ["1 messages at bob/phone"]);
    let unanswered = after(&[(10, 1), (20, 2), (30, 3)]);
    unanswered.number(&stream());
    assert_eq!(unanswered.missing(), ["1 oks of alice/phone → bob", "1 messages at bob/phone"]);
    let late = after(&[(10, 1), (20, 2), (30, 3)]);
    late.device("bob", "laptop");
    assert_eq!(late.missing(), ["3 messages at bob/laptop"]);
    let odd = after(&[(10, 1), (20, 2), (30, 3)]);
    odd.gap("bob", "phone", 1);
    assert_eq!(odd.missing(), ["1 too many at bob/phone"]);
}
