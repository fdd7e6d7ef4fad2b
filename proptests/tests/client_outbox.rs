//! The client's queue of messages against a model of a node: whatever is lost with broken
//! connections, each message is stored once or refused, in order, and its sender told so.

use std::collections::{BTreeMap, VecDeque};

use cluster::env::clock::Instant;
use im_gateway::client::outbox::{FIRST_ID, Next, Now, Outbox, Outgoing, Request};
use im_gateway::protocol::{ClientBody, ClientFrame};
use proptest::prelude::*;
use serde_json::value::RawValue;

const INFLIGHT: usize = 4;

/// What can happen next. Numbers say how much of it.
#[derive(Debug, Clone)]
enum Step {
    /// The application gives messages.
    Give(u8),
    /// The client writes frames.
    Write(u8),
    /// The node takes frames from the wire, and puts answers on it.
    Work(u8),
    /// The client reads answers.
    Read(u8),
    /// The connection breaks, after the node took so many more frames; a new one stands at once.
    Break(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..6_u8).prop_map(Step::Give),
        (1..6_u8).prop_map(Step::Write),
        (1..6_u8).prop_map(Step::Work),
        (1..6_u8).prop_map(Step::Read),
        (0..6_u8).prop_map(Step::Break),
    ]
}

/// A message that the node refuses, so that refusals mix with stores.
fn is_refused(number: usize) -> bool {
    number % 5 == 3
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Stored,
    Refused,
}

/// The replicated side, as a client sees it: it remembers the last `INFLIGHT` ids of the device.
#[derive(Default)]
struct Node {
    stored: Vec<(String, String)>,
    ring: VecDeque<(String, String)>,
}

impl Node {
    fn take(&mut self, text: &str) -> (u64, Answer) {
        let frame = ClientFrame::decode(text).expect("a good frame");
        let ClientBody::Send(send) = frame.body else { panic!("{text}") };
        let message = (send.key.into_owned(), send.body.get().to_owned());
        let number: usize = message.0.parse().expect("keys are numbers");
        if !self.ring.contains(&message) {
            self.ring.push_back(message.clone());
            if self.ring.len() > INFLIGHT {
                self.ring.pop_front();
            }
            if !is_refused(number) {
                self.stored.push(message);
            }
        }
        (frame.id.expect("sends have ids"), if is_refused(number) { Answer::Refused } else { Answer::Stored })
    }
}

#[derive(Default)]
struct World {
    outbox: Outbox<usize>,
    node: Node,
    up: VecDeque<String>,
    down: VecDeque<(u64, Answer)>,
    given: usize,
    answers: BTreeMap<usize, Answer>,
}

fn now() -> Now {
    Now { monotonic: Instant::default(), wall_ms: 0 }
}

impl World {
    fn give(&mut self) {
        let body = format!("{{ \"n\": {} }}", self.given);
        let body = RawValue::from_string(body).expect("JSON");
        let message = Outgoing { to: "bob".into(), key: self.given.to_string(), body, trace: None };
        self.outbox.push(Request::Send(message), self.given, now());
        self.given += 1;
    }

    fn write(&mut self) -> bool {
        match self.outbox.next(now()) {
            Next::Frame(text) => self.up.push_back(text),
            Next::Idle => return false,
            Next::TooLarge(..) => panic!("nothing here is large"),
        }
        true
    }

    fn work(&mut self) -> bool {
        let Some(text) = self.up.pop_front() else { return false };
        self.down.push_back(self.node.take(&text));
        true
    }

    fn read(&mut self) -> bool {
        let Some((id, answer)) = self.down.pop_front() else { return false };
        let number = self.outbox.answered(id).expect("each frame is answered once");
        assert_eq!(self.answers.insert(number, answer), None, "a message has one fate");
        true
    }

    fn connect(&mut self) {
        self.outbox.disconnected();
        self.up.clear();
        self.down.clear();
        self.outbox.connected(INFLIGHT, 65_536);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Give(count) => (0..count).for_each(|_| self.give()),
            Step::Write(count) => repeat(count, || self.write()),
            Step::Work(count) => repeat(count, || self.work()),
            Step::Read(count) => repeat(count, || self.read()),
            Step::Break(count) => {
                repeat(count, || self.work());
                self.connect();
            }
        }
        let open = self.up.len() + self.down.len();
        assert!(open <= INFLIGHT, "{open} frames are without an answer");
    }
}

/// Does something up to `count` times, as long as there is anything to do.
fn repeat(count: u8, mut act: impl FnMut() -> bool) {
    for _ in 0..count {
        if !act() {
            return;
        }
    }
}

proptest! {
    #[test]
    fn each_message_is_stored_once_and_in_order(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::default();
        world.connect();
        steps.iter().for_each(|step| world.step(step));
        while world.write() | world.work() | world.read() {}
        prop_assert!(world.outbox.is_empty());
        prop_assert_eq!(world.outbox.bytes(), 0);
        prop_assert_eq!(world.answers.len(), world.given);
        let expected: Vec<_> = (0..world.given).filter(|number| !is_refused(*number)).collect();
        let stored: Vec<usize> = world.node.stored.iter().map(|(key, _)| key.parse().expect("a number")).collect();
        prop_assert_eq!(stored, expected, "stored once, in order, byte for byte");
        for (number, answer) in &world.answers {
            prop_assert_eq!(*answer == Answer::Refused, is_refused(*number));
        }
    }
}

fn message(key: &str) -> Outgoing {
    Outgoing { to: "bob".into(), key: key.into(), body: RawValue::from_string("1".into()).expect("JSON"), trace: None }
}

fn at(monotonic_s: u64, wall_s: u64) -> Now {
    Now { monotonic: Instant::from_nanos(monotonic_s * 1_000_000_000), wall_ms: wall_s * 1_000 }
}

#[test]
fn gives_up_after_an_hour_by_either_clock() {
    for later in [at(3_600, 0), at(0, 3_600)] {
        let mut outbox = Outbox::default();
        outbox.push(Request::Send(message("written")), 1, at(0, 0));
        outbox.connected(1, 1_000);
        assert!(matches!(outbox.next(at(10, 10)), Next::Frame(_)));
        outbox.push(Request::Send(message("waiting")), 2, at(20, 20));
        outbox.disconnected();
        assert_eq!(outbox.expire(at(3_000, 3_000)), []);
        assert_eq!(outbox.expire(later), [(1, true), (2, false)]);
        assert!(outbox.is_empty());
    }
}

#[test]
fn answers_to_nothing_are_ignored() {
    let mut outbox = Outbox::default();
    outbox.push(Request::Send(message("a")), 1, at(0, 0));
    assert_eq!(outbox.answered(FIRST_ID), None, "it was not written");
    outbox.connected(1, 1_000);
    assert!(matches!(outbox.next(at(0, 0)), Next::Frame(_)));
    assert_eq!(outbox.answered(FIRST_ID + 1), None);
    assert_eq!(outbox.answered(FIRST_ID), Some(1));
    assert_eq!(outbox.answered(FIRST_ID), None);
}

#[test]
fn a_frame_that_is_too_large_stays_here() {
    let mut outbox = Outbox::default();
    outbox.push(Request::Send(message(&"k".repeat(60))), 1, at(0, 0));
    outbox.push(Request::Send(message("small")), 2, at(0, 0));
    outbox.connected(8, 80);
    assert_eq!(outbox.next(at(0, 0)), Next::TooLarge(1, false));
    assert!(matches!(outbox.next(at(0, 0)), Next::Frame(_)));
    outbox.disconnected();
    outbox.connected(8, 10);
    assert_eq!(outbox.next(at(0, 0)), Next::TooLarge(2, true), "an earlier node may have it");
}
