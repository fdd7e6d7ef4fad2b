//! The delivery oracle on doctored histories.

use super::super::facts::{Grouped, Registered};
use super::*;
use crate::oracle::testing::{Scene, found, pos};
use cluster::id::MessageId;

#[test]
fn a_good_history_is_good() {
    let scene = Scene::good();
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
    assert_eq!(missing(&scene.history()), Vec::<String>::new());
}

#[test]
fn an_ok_that_the_log_does_not_know() {
    let mut scene = Scene::good();
    scene.facts.stored.pop();
    scene.book.clients[1].received.pop();
    found(&scene.broken_by(check), "was ok'd and is not in the log");
}

#[test]
fn an_ok_before_it_was_durable() {
    let mut scene = Scene::good();
    scene.book.clients[0].sent[1].durable = 1;
    found(&scene.broken_by(check), "when only 1 was durable");
}

#[test]
fn shown_before_it_was_durable() {
    let mut scene = Scene::good();
    scene.book.clients[1].received[0].durable = 1;
    found(&scene.broken_by(check), "was shown");
}

#[test]
fn refused_and_stored_all_the_same() {
    let mut scene = Scene::good();
    scene.book.clients[0].sent[0].fate = Some(Fate::Refused { code: ErrorCode::InboxFull, message: String::new() });
    found(&scene.broken_by(check), "its sender was told Refused");
    scene.book.clients[0].sent[0].fate = Some(Fate::NotSent);
    found(&scene.broken_by(check), "its sender was told NotSent");
}

#[test]
fn refused_far_from_any_limit() {
    let mut scene = Scene::good();
    let sent = scene.book.clients[0].sent[0].clone();
    let fate = Some(Fate::Refused { code: ErrorCode::InboxFull, message: String::new() });
    scene.book.clients[0].sent.push(Sent { fate, ..sent });
    found(&scene.broken_by(check), "far from any limit");
    scene.tight = true;
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
}

#[test]
fn unknown_stays_unknown() {
    let mut scene = Scene::good();
    scene.book.clients[0].sent[0].fate = Some(Fate::Unknown);
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
    scene.book.clients[0].sent[0].fate = None;
    found(&missing(&scene.history()), "has no answer");
}

#[test]
fn skipped_without_a_gap() {
    let mut scene = Scene::good();
    scene.book.clients[1].received.remove(0);
    found(&scene.broken_by(check), "went on to");
}

#[test]
fn a_gap_says_how_many() {
    let mut scene = Scene::good();
    scene.tight = true;
    scene.book.clients[1].received[0].what = Surfaced::Gap { lost: 1 };
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
    scene.tight = false;
    found(&scene.broken_by(check), "a gap far from any limit");
    scene.tight = true;
    let received = &mut scene.book.clients[1].received;
    received.remove(0);
    received[0].what = Surfaced::Gap { lost: 1 };
    found(&scene.broken_by(check), "without 1 messages");
    scene.book.clients[1].received[0].what = Surfaced::Gap { lost: 2 };
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
}

#[test]
fn seen_twice_or_out_of_order() {
    let mut scene = Scene::good();
    let again = scene.book.clients[1].received[0].clone();
    scene.book.clients[1].received.push(again);
    found(&scene.broken_by(check), "twice, or out of order");
}

#[test]
fn stored_twice() {
    let mut scene = Scene::good();
    let again = Stored { pos: 99 << 12, ..scene.facts.stored[0].clone() };
    scene.facts.stored.push(again);
    found(&scene.broken_by(check), "is in the log twice");
    // Another client of the device had the place meanwhile.
    scene.client("u", 50);
    let own = Registered { epoch: 60 << 12, ..scene.facts.registered[0].clone() };
    scene.facts.registered.push(own);
    found(&scene.broken_by(check), "is in the log twice");
    // And sent more than the cluster remembers.
    scene.facts.handled.insert(Device::new("u", "a"), vec![3 << 12, 4 << 12, 55 << 12]);
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
}

#[test]
fn a_senders_messages_out_of_order() {
    let mut scene = Scene::good();
    let (a, b) = (scene.facts.stored[0].pos, scene.facts.stored[1].pos);
    scene.facts.stored.swap(0, 1);
    (scene.facts.stored[0].pos, scene.facts.stored[1].pos) = (a, b);
    found(&scene.broken_by(check), "after its sender's message 1");
}

#[test]
fn misrouted_or_from_nowhere() {
    let mut scene = Scene::good();
    let Surfaced::Message { mid, .. } = &mut scene.book.clients[1].received[0].what else { panic!("a message") };
    *mid = MessageId([9; 16]);
    found(&scene.broken_by(check), "where the log has");
    let mut scene = Scene::good();
    scene.facts.stored[0].to = "v".into();
    let text = scene.broken_by(check);
    found(&text, "is for w and in the log for v");
    found(&text, "where the log has nothing for it");
    let mut scene = Scene::good();
    let Surfaced::Message { from, .. } = &mut scene.book.clients[1].received[0].what else { panic!("a message") };
    from.user = "x".into();
    found(&scene.broken_by(check), "as if from x/a");
}

#[test]
fn not_delivered_at_last() {
    let mut scene = Scene::good();
    scene.book.clients[1].received.pop();
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
    found(&missing(&scene.history()), "did not get 1 messages");
}

#[test]
fn two_gaps_that_overlap_each_count_their_own() {
    let mut scene = Scene::good();
    scene.tight = true;
    scene.book.clients[1].received.clear();
    let gap = |entry: u64, lost| {
        let at = entry * 10 + 5;
        Received { at, durable: entry, seq: crate::oracle::testing::pos(entry), what: Surfaced::Gap { lost } }
    };
    // One of each: the later gap tells of the earlier message.
    scene.book.clients[1].received.push(gap(4, 1));
    found(&scene.broken_by(check), "without 1 messages");
    scene.book.clients[1].received.push(gap(5, 1));
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
}

/// A copy of what `u/a` sent, for `u/b`, who is there from entry 2 on.
fn copied() -> Scene {
    let mut scene = Scene::good();
    scene.client("u", 2);
    let other = Device::new("u", "b");
    scene.book.clients[2].device = other.clone();
    scene.facts.registered[2].device = other.clone();
    scene.facts.known.insert(other, vec![KnownSpan { until: None, owed_from: 2 << 12, ..KnownSpan::default() }]);
    scene.facts.stored.iter_mut().for_each(|stored| stored.copied_from = Some(Device::new("u", "a")));
    scene.book.clients[2].received = scene.book.clients[1].received.clone();
    scene
}

#[test]
fn other_devices_of_the_sender_get_a_copy() {
    let mut scene = copied();
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
    assert_eq!(missing(&scene.history()), Vec::<String>::new());
    scene.book.clients[2].received.remove(1);
    found(&missing(&scene.history()), "u/b did not get 1 messages from u/a@0#1 on");
    let mut scene = copied();
    scene.book.clients[2].received.remove(0);
    found(&scene.broken_by(check), "without 1 messages");
    let mut scene = copied();
    scene.book.clients[2].received.swap(0, 1);
    found(&scene.broken_by(check), "twice, or out of order");
}

#[test]
fn the_device_that_sent_it_gets_no_copy() {
    let mut scene = copied();
    scene.book.clients[0].received = scene.book.clients[1].received.clone();
    found(
        &scene.broken_by(check),
        "u/a@0 got 01010101010101010101010101010101 at 12288, where the log has nothing for it",
    );
}

#[test]
fn nobody_gets_a_copy_before_all_know_of_them() {
    let mut scene = copied();
    scene.facts.stored[0].copied_from = None;
    found(&scene.broken_by(check), "where the log has nothing for it");
    scene.book.clients[2].received.remove(0);
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
}

#[test]
fn a_forgotten_device_is_owed_nothing_and_one_that_comes_back_begins_afresh() {
    let mut scene = Scene::good();
    let device = Device::new("w", "a");
    let until = |entry: u64| Some(pos(entry));
    // It is forgotten before the second message came.
    scene.book.clients[1].received.pop();
    found(&missing(&scene.history()), "did not get 1 messages");
    scene.facts.known.insert(device.clone(), vec![KnownSpan { until: until(3), owed_from: 0, ..KnownSpan::default() }]);
    assert_eq!(missing(&scene.history()), Vec::<String>::new());
    // And comes back behind it: beside others it gets nothing of it, alone it gets the rest.
    let first = KnownSpan { until: until(3), owed_from: 0, ..KnownSpan::default() };
    let again = |owed_from| vec![first.clone(), KnownSpan { until: None, owed_from, ..KnownSpan::default() }];
    scene.facts.known.insert(device.clone(), again(pos(6)));
    assert_eq!(missing(&scene.history()), Vec::<String>::new());
    scene.facts.known.insert(device.clone(), again(pos(3)));
    found(&missing(&scene.history()), "did not get 1 messages");
    // What it got while nobody knew it, it should not have.
    let mut scene = Scene::good();
    scene.facts.known.insert(device, vec![KnownSpan { until: until(3), owed_from: 0, ..KnownSpan::default() }]);
    found(&scene.broken_by(check), "w/a@1 got 16384, of a time when it was not known");
}

#[test]
fn what_a_forgotten_device_was_not_told_its_next_life_is() {
    let mut scene = Scene::good();
    scene.tight = true;
    let device = Device::new("w", "a");
    let skipped = scene.book.clients[1].received.remove(0);
    let (first, next) = (
        KnownSpan { until: Some(pos(6)), owed_from: 0, ..KnownSpan::default() },
        KnownSpan { until: None, owed_from: 0, ..KnownSpan::default() },
    );
    // Forgotten for good, it must have had what came before what it got.
    scene.facts.known.insert(device.clone(), vec![first.clone()]);
    found(&scene.broken_by(check), "went on to");
    // It comes back for what it left, and is told.
    scene.facts.known.insert(device, vec![first, next]);
    found(&scene.broken_by(check), "went on to");
    scene.book.clients[1].received.push(Received {
        seq: pos(7),
        durable: 9,
        what: Surfaced::Gap { lost: 1 },
        ..skipped
    });
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
}

#[test]
fn a_guest_that_says_goodbye_may_never_have_heard_of_what_a_group_lost() {
    let mut scene = Scene::good();
    scene.tight = true;
    let joined = Grouped { pos: pos(2) + 1, group: "#g".into(), user: "w".into(), left: false };
    scene.facts.grouped.push(joined);
    scene.facts.stored[0].to = "#g".into();
    scene.book.clients[0].sent[0].to = "#g".into();
    scene.book.clients[1].ephemeral = true;
    scene.book.clients[1].received.remove(0);
    found(&scene.broken_by(check), "went on to");
    scene.book.clients[1].closed_at = Some(60);
    assert_eq!(scene.broken_by(check), Vec::<String>::new());
    // What comes to itself is told in its order.
    scene.facts.stored[0].to = "w".into();
    scene.book.clients[0].sent[0].to = "w".into();
    found(&scene.broken_by(check), "went on to");
}
