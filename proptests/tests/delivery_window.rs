//! Delivery to one device, against a model: whatever the network loses, however often either end
//! dies, each message is surfaced once and in order, and no acknowledgement runs ahead (G1–G3).
//!
//! The node's side is the real [`Window`]; the log, the device's cursor, the wire and the client
//! are the model.

use std::collections::VecDeque;
use std::time::Duration;

use cluster::env::clock::Instant;
use cluster::id::Pos;
use im_gateway::delivery::{Pace, Window, WindowLimits};
use proptest::prelude::*;

const LIMITS: WindowLimits = WindowLimits { messages: 5, bytes: 1000 };
const TIMEOUT: Duration = Duration::from_millis(50);

#[derive(Debug, Clone)]
enum Step {
    /// A message of so many bytes is stored, so far after the one before.
    Store { skip: u64, bytes: usize },
    /// All that waits up to some place is lost to the device, with a gap in its stead.
    Lapse,
    /// The node reads its inbox and writes, at most so many.
    Write(usize),
    /// So many frames reach the client.
    Receive(usize),
    /// The client acknowledges what it has.
    Ack,
    /// So many acknowledgements reach the node.
    TakeAcks(usize),
    /// So many of the node's cursor moves are committed.
    Commit(usize),
    /// The connection breaks; so many of the cursor moves under way are committed all the same.
    Break(usize),
    /// Time passes.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..5_u64, 1..700_usize).prop_map(|(skip, bytes)| Step::Store { skip, bytes }),
        1 => Just(Step::Lapse),
        4 => (1..8_usize).prop_map(Step::Write),
        4 => (1..8_usize).prop_map(Step::Receive),
        3 => Just(Step::Ack),
        3 => (1..4_usize).prop_map(Step::TakeAcks),
        3 => (1..4_usize).prop_map(Step::Commit),
        1 => (0..4_usize).prop_map(Step::Break),
        1 => (1..100_u64).prop_map(Step::Wait),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Message(Pos, usize),
    Gap(Pos),
}

impl Item {
    fn seq(self) -> Pos {
        match self {
            Self::Message(pos, _) | Self::Gap(pos) => pos,
        }
    }
}

/// What was written and not acknowledged.
struct Unacked {
    seq: Pos,
    size: usize,
    written: Instant,
    late: bool,
}

struct World {
    now: Instant,
    /// Everything that was ever stored, and what the device lost of it.
    log: Vec<(Pos, usize)>,
    lost: Vec<Pos>,
    gap: Option<Pos>,
    cursor: Pos,
    /// One connection.
    window: Window,
    to_client: VecDeque<Item>,
    to_node: VecDeque<Pos>,
    moves: VecDeque<Pos>,
    unacked: Vec<Unacked>,
    acked: Pos,
    late: u64,
    expected_late: u64,
    /// The client: what it has surfaced, also across its own restarts, because it acknowledges
    /// only what it keeps.
    surfaced: Vec<Item>,
}

impl World {
    fn new() -> Self {
        Self {
            now: Instant::default() + Duration::from_secs(1),
            log: Vec::new(),
            lost: Vec::new(),
            gap: None,
            cursor: Pos::ZERO,
            window: Window::new(LIMITS),
            to_client: VecDeque::new(),
            to_node: VecDeque::new(),
            moves: VecDeque::new(),
            unacked: Vec::new(),
            acked: Pos::ZERO,
            late: 0,
            expected_late: 0,
            surfaced: Vec::new(),
        }
    }

    fn has(&self) -> Pos {
        self.surfaced.last().map_or(Pos::ZERO, |item| item.seq())
    }

    /// What the replicated state answers to a reader.
    fn inbox(&self, after: Pos, max_count: usize, max_bytes: usize) -> Vec<Item> {
        let mut items = Vec::new();
        let mut from = after.max(self.cursor);
        if let Some(gap) = self.gap.filter(|gap| *gap > after) {
            items.push(Item::Gap(gap));
            from = from.max(gap);
        }
        let mut bytes = 0;
        for &(pos, size) in self.log.iter().filter(|(pos, _)| *pos > from && !self.lost.contains(pos)) {
            bytes += size;
            if items.len() >= max_count || (!items.is_empty() && bytes > max_bytes) {
                break;
            }
            items.push(Item::Message(pos, size));
        }
        items
    }

    fn write(&mut self, most: usize) {
        let Some((count, bytes)) = self.window.room() else {
            assert!(self.unacked.len() >= LIMITS.messages || self.unacked_bytes() >= LIMITS.bytes, "there was room");
            return;
        };
        for item in self.inbox(self.window.sent(), count.min(most), bytes) {
            let size = if let Item::Message(_, size) = item { size } else { 40 };
            self.window.wrote(item.seq(), size, self.now);
            self.unacked.push(Unacked { seq: item.seq(), size, written: self.now, late: false });
            self.to_client.push_back(item);
        }
        let largest = self.unacked.iter().map(|entry| entry.size).max().unwrap_or(0);
        assert!(self.unacked.len() <= LIMITS.messages && self.unacked_bytes() < LIMITS.bytes + largest + 40);
    }

    fn unacked_bytes(&self) -> usize {
        self.unacked.iter().map(|entry| entry.size).sum()
    }

    fn receive(&mut self, count: usize) {
        for item in self.to_client.drain(..count.min(self.to_client.len())) {
            // What the client has already is a repeat after a lost acknowledgement.
            if item.seq() > self.surfaced.last().map_or(Pos::ZERO, |item| item.seq()) {
                self.surfaced.push(item);
            }
        }
    }

    fn take_acks(&mut self, count: usize) {
        for upto in self.to_node.drain(..count.min(self.to_node.len())) {
            let news = self.window.ack(upto).expect("a client that acknowledges what it got is in the right");
            assert_eq!(news, upto > self.acked, "what is old news moves no cursor");
            self.acked = self.acked.max(upto);
            self.unacked.retain(|entry| entry.seq > upto);
            if news {
                self.moves.push_back(upto);
            }
        }
    }

    fn commit(&mut self, count: usize) {
        for upto in self.moves.drain(..count.min(self.moves.len())) {
            self.cursor = self.cursor.max(upto);
            self.gap = self.gap.filter(|gap| *gap > self.cursor);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Store { skip, bytes } => {
                let last = self.log.last().map_or(0, |(pos, _)| pos.0);
                self.log.push((Pos(last + skip), bytes));
            }
            Step::Lapse => self.lapse(),
            Step::Write(most) => self.write(most),
            Step::Receive(count) => self.receive(count),
            Step::Ack if self.connected_has() > Pos::ZERO => self.to_node.push_back(self.connected_has()),
            Step::Ack => {}
            Step::TakeAcks(count) => self.take_acks(count),
            Step::Commit(count) => self.commit(count),
            Step::Break(committed) => {
                self.commit(committed);
                self.moves.clear();
                self.to_client.clear();
                self.to_node.clear();
                self.unacked.clear();
                self.acked = Pos::ZERO;
                self.window = Window::new(LIMITS);
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                self.late += self.window.late(self.now, TIMEOUT);
                for entry in &mut self.unacked {
                    if !entry.late && entry.written + TIMEOUT <= self.now {
                        entry.late = true;
                        self.expected_late += 1;
                    }
                }
            }
        }
        self.check();
    }

    /// The highest that was received on *this* connection, or what the client knows from before
    /// that was sent again: it may acknowledge no more than was sent here.
    fn connected_has(&self) -> Pos {
        self.has().min(self.window.sent())
    }

    fn lapse(&mut self) {
        let waiting = self.log.iter().map(|(pos, _)| *pos).filter(|pos| *pos > self.cursor);
        let waiting: Vec<Pos> = waiting.collect();
        if let Some(&last) = waiting.last() {
            self.lost.extend(waiting);
            self.gap = Some(last);
        }
    }

    fn check(&self) {
        assert!(self.cursor <= self.has(), "nothing is acknowledged that the client has not");
        assert!(self.surfaced.windows(2).all(|pair| pair[0].seq() < pair[1].seq()), "in order, each once");
        // Between two things surfaced, nothing was left out but what a gap accounts for.
        let mut before = Pos::ZERO;
        for item in &self.surfaced {
            let skipped = self.log.iter().filter(|(pos, _)| *pos > before && *pos < item.seq());
            if let Item::Message(..) = item {
                assert_eq!(skipped.count(), 0, "left out before {item:?} of {:?}", self.surfaced);
            }
            before = item.seq();
        }
        assert_eq!(self.late, self.expected_late, "each late message is counted once");
    }

    /// Without faults everything comes to rest.
    fn settle(&mut self) {
        for _ in 0..10 * self.log.len() + 10 {
            for step in [Step::Write(9), Step::Receive(9), Step::Ack, Step::TakeAcks(9), Step::Commit(9)] {
                self.step(&step);
            }
        }
        let last = self.log.last().map_or(Pos::ZERO, |(pos, _)| *pos);
        assert_eq!(self.has(), last, "everything is read in the end, or a gap says what is not");
        assert_eq!((self.cursor, self.gap), (last, None));
        assert_eq!(self.window.room(), Some((LIMITS.messages, LIMITS.bytes)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_message_once_and_in_order(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.settle();
    }

    #[test]
    fn no_acknowledgement_beyond_what_was_sent(writes in prop::collection::vec(1..50_u64, 0..5), ack in 0..300_u64) {
        let mut window = Window::new(LIMITS);
        let mut last = 0;
        for skip in writes {
            last += skip;
            window.wrote(Pos(last), 1, Instant::default());
        }
        prop_assert_eq!(window.ack(Pos(ack)).is_err(), ack > last);
    }

    #[test]
    fn no_more_pass_than_the_rate_and_a_second_of_it(rate in 1..2000_u32, waits_ms in prop::collection::vec(0..200_u64, 1..200)) {
        let start = Instant::from_nanos(7_000_000_000);
        let (mut pace, mut now, mut passed) = (Pace::new(rate), start, 0_u64);
        for wait_ms in waits_ms {
            now += Duration::from_millis(wait_ms);
            // As many as it lets through, but it is not asked for more than ten.
            for _ in 0..10 {
                if pace.ready(now) {
                    pace.take(now);
                    passed += 1;
                }
            }
            let most = u64::from(rate) + u64::from(rate) * u64::try_from((now - start).as_millis()).unwrap() / 1000 + 1;
            prop_assert!(passed <= most, "{} passed, at most {} may", passed, most);
        }
    }
}
