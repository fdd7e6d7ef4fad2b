//! The client's inbox against a model of a node that repeats from the device's cursor: whatever is
//! lost with broken connections, each message is surfaced once and in order, and none is
//! acknowledged that the application could still lose unasked.

use std::collections::{BTreeSet, VecDeque};

use cluster::id::MessageId;
use im_gateway::client::inbox::Inbox;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    /// Messages are stored; the second number picks repeats of an id that is stored already.
    Store(u8, u8),
    /// The node writes messages to the connection.
    Deliver(u8),
    /// The client reads them.
    Read(u8),
    /// The application takes messages.
    Take(u8),
    /// The client acknowledges.
    Ack,
    /// The node reads acknowledgements, and moves the cursor.
    Move(u8),
    /// The connection breaks, and a new one stands.
    Break,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..4_u8, 0..10_u8).prop_map(|(count, repeat)| Step::Store(count, repeat)),
        (1..8_u8).prop_map(Step::Deliver),
        (1..8_u8).prop_map(Step::Read),
        (1..8_u8).prop_map(Step::Take),
        Just(Step::Ack),
        (1..4_u8).prop_map(Step::Move),
        Just(Step::Break),
    ]
}

struct World {
    inbox: Inbox<u64>,
    ahead: usize,
    /// What is stored: position and id.
    log: Vec<(u64, u64)>,
    cursor: u64,
    /// The highest position written to this connection.
    written: u64,
    down: VecDeque<(u64, u64)>,
    up: VecDeque<u64>,
    surfaced: Vec<u64>,
}

fn mid(id: u64) -> MessageId {
    MessageId(u128::from(id).to_be_bytes())
}

impl World {
    fn new(ahead: usize) -> Self {
        let (log, down, up, surfaced) = (Vec::new(), VecDeque::new(), VecDeque::new(), Vec::new());
        Self { inbox: Inbox::new(ahead), ahead, log, cursor: 0, written: 0, down, up, surfaced }
    }

    fn end(&self) -> u64 {
        self.log.last().map_or(0, |(pos, _)| *pos)
    }

    fn store(&mut self, repeat: u8) {
        let pos = self.end() + 1 + u64::from(repeat % 3);
        let id = if repeat == 7 && pos > 20 { self.log[self.log.len() / 2].1 } else { pos };
        self.log.push((pos, id));
    }

    fn deliver(&mut self) -> bool {
        let next = self.log.iter().find(|(pos, _)| *pos > self.written.max(self.cursor)).copied();
        let Some((pos, id)) = next else { return false };
        self.written = pos;
        self.down.push_back((pos, id));
        true
    }

    fn read(&mut self) -> bool {
        let Some((pos, id)) = self.down.pop_front() else { return false };
        self.inbox.offer(pos, Some(mid(id)), id);
        true
    }

    fn take(&mut self) -> bool {
        let taken = self.inbox.take();
        self.surfaced.extend(taken);
        taken.is_some()
    }

    fn ack(&mut self) -> bool {
        let Some(ack) = self.inbox.ack() else { return false };
        assert!(ack <= self.written, "acknowledged what this connection did not bring");
        assert!(self.up.back().is_none_or(|last| *last < ack), "acknowledgements grow");
        // What is acknowledged was surfaced, or is among the next `ahead` to be.
        let ids: BTreeSet<_> = self.log.iter().filter(|(pos, _)| *pos <= ack).map(|(_, id)| *id).collect();
        let surfaced: BTreeSet<_> = self.surfaced.iter().copied().collect();
        assert!(ids.difference(&surfaced).count() <= self.ahead);
        self.up.push_back(ack);
        true
    }

    fn advance(&mut self) -> bool {
        let Some(ack) = self.up.pop_front() else { return false };
        self.cursor = self.cursor.max(ack);
        true
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Store(count, repeat) => (0..count).for_each(|_| self.store(repeat)),
            Step::Deliver(count) => repeat(count, || self.deliver()),
            Step::Read(count) => repeat(count, || self.read()),
            Step::Take(count) => repeat(count, || self.take()),
            Step::Ack => repeat(1, || self.ack()),
            Step::Move(count) => repeat(count, || self.advance()),
            Step::Break => {
                self.down.clear();
                self.up.clear();
                self.written = 0;
                self.inbox.connected(Some(self.end() + 1));
            }
        }
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
    fn each_message_is_surfaced_once_and_in_order(
        ahead in 0..5_usize,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut world = World::new(ahead);
        steps.iter().for_each(|step| world.step(step));
        while world.deliver() | world.read() | world.take() | world.ack() | world.advance() {}
        let mut known = BTreeSet::new();
        let expected: Vec<_> = world.log.iter().map(|(_, id)| *id).filter(|id| known.insert(*id)).collect();
        prop_assert_eq!(&world.surfaced, &expected);
        prop_assert_eq!(world.cursor, world.end(), "everything is acknowledged in the end");
    }
}
