//! Watchers of presence, on nodes that apply the log at their own pace: whatever they miss between, each ends with
//! what the log says; what they are told is true of its version; versions never go back; and a short absence is not
//! told.

use std::collections::{BTreeMap, BTreeSet};

use cluster::env::clock::Instant;
use cluster::id::UserId;
use cluster::presence::{Count, LINGER, News, Sight, TICK, Watches};
use proptest::prelude::*;

const USERS: usize = 2;
const NODES: usize = 2;
/// A node never lags further behind: it sends its clients away before.
const LAG_MS: u64 = 5_000;

#[derive(Debug, Clone)]
enum Step {
    /// Time passes, ms.
    Wait(u64),
    /// An entry says that so many devices of a user are there.
    Entry(usize, u32),
    /// A node applies up to so many entries.
    Apply(usize, usize),
    /// The client opens a session on a node, besides the one that it has.
    Open(usize, bool),
    /// Its older session is over.
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![4 => 0..200_u64, 1 => 0..4_000_u64];
    let step = prop_oneof![
        4 => wait.prop_map(Step::Wait),
        4 => (0..USERS, 0..4_u32).prop_map(|(user, devices)| Step::Entry(user, devices)),
        4 => (0..NODES, 1..5_usize).prop_map(|(node, count)| Step::Apply(node, count)),
        1 => (0..NODES, any::<bool>()).prop_map(|(node, just_left)| Step::Open(node, just_left)),
        1 => Just(Step::Close),
    ];
    prop::collection::vec(step, 1..120)
}

fn user(n: usize) -> UserId {
    UserId::new(&format!("u{n}")).unwrap()
}

#[derive(Default)]
struct Node {
    applied: usize,
    watches: Watches,
    looked: Option<u64>,
    /// What each look at a user found, and when, since it is watched.
    looks: BTreeMap<usize, Vec<(u64, u32)>>,
    just_left: bool,
}

struct World {
    now_ms: u64,
    /// When it was committed, whose, how many; its index is its place, from 1.
    log: Vec<(u64, usize, u32)>,
    nodes: Vec<Node>,
    /// The client's sessions, the older one first: node, and the last version of each user.
    sessions: Vec<(u64, usize, BTreeMap<usize, u64>)>,
    next_key: u64,
    /// What the client knows.
    known: BTreeMap<usize, Count>,
    /// Everything that anybody was told.
    told: usize,
}

impl World {
    fn new() -> Self {
        Self {
            now_ms: 20_000,
            log: Vec::new(),
            nodes: (0..NODES).map(|_| Node::default()).collect(),
            sessions: Vec::new(),
            next_key: 1,
            known: BTreeMap::new(),
            told: 0,
        }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.now_ms * 1_000_000)
    }

    fn devices(&self, user: usize, index: usize) -> u32 {
        self.log[..index].iter().rfind(|(_, whose, _)| *whose == user).map_or(0, |(_, _, devices)| *devices)
    }

    fn apply(&mut self, node: usize, upto: usize) {
        let node = &mut self.nodes[node];
        while node.applied < upto {
            let (_, whose, _) = self.log[node.applied];
            node.applied += 1;
            node.watches.changed(&[user(whose)]);
        }
    }

    /// Nodes that lag too far catch up; those whose turn it is look.
    fn go_on(&mut self) {
        for n in 0..NODES {
            let due = self.log.iter().take_while(|(at, ..)| at + LAG_MS <= self.now_ms).count();
            self.apply(n, due);
            let tick_ms = u64::try_from(TICK.as_millis()).unwrap();
            let is_due = self.nodes[n].watches.due().is_some_and(|due| due <= self.now());
            if is_due && self.nodes[n].looked.is_none_or(|looked| looked + tick_ms <= self.now_ms) {
                self.look(n);
            }
        }
    }

    fn look(&mut self, n: usize) {
        self.nodes[n].looked = Some(self.now_ms);
        let now = self.now();
        for taken in self.nodes[n].watches.take(usize::MAX, now) {
            let whose = (0..USERS).find(|&n| user(n) == taken).unwrap();
            let applied = self.nodes[n].applied;
            let count = Count { devices: self.devices(whose, applied), version: applied as u64 };
            let node = &mut self.nodes[n];
            let sight = Sight { count, just_left: node.just_left };
            let looks = node.looks.entry(whose).or_default();
            looks.push((self.now_ms, count.devices));
            if let Some(News { count, to }) = node.watches.observed(&taken, sight, now) {
                assert_eq!(count.devices, lasting(looks, self.now_ms), "{looks:?}");
                to.into_iter().for_each(|key| self.tell(key, whose, count));
            }
        }
    }

    fn tell(&mut self, key: u64, whose: usize, count: Count) {
        assert_eq!(count.devices, self.devices(whose, usize::try_from(count.version).unwrap()), "what a version says");
        let (_, _, versions) = self.sessions.iter_mut().find(|(open, ..)| *open == key).expect("to who is there");
        let before = versions.insert(whose, count.version);
        assert!(before.is_none_or(|before| before <= count.version), "versions never go back");
        let known = self.known.entry(whose).or_insert(count);
        if known.version <= count.version {
            *known = count;
        }
        self.told += 1;
    }

    fn open(&mut self, n: usize, just_left: bool) {
        if self.sessions.len() == 2 {
            self.close();
        }
        // Its registration is an entry, which the node has applied: what the client knew when it said hello is older.
        let hello = self.sessions.first().map_or(0, |(_, node, _)| self.nodes[*node].applied);
        self.apply(n, hello.max(self.nodes[n].applied));
        let key = self.next_key;
        self.next_key += 1;
        let users: BTreeSet<UserId> = (0..USERS).map(user).collect();
        let now = self.now();
        let node = &mut self.nodes[n];
        node.just_left = just_left;
        node.watches.add(key, users, USERS, now).unwrap();
        self.sessions.push((key, n, BTreeMap::new()));
    }

    fn close(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let (key, n, _) = self.sessions.remove(0);
        self.nodes[n].watches.end(key);
        if self.nodes[n].watches.pairs() == 0 {
            self.nodes[n].looks.clear();
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Wait(ms) => self.now_ms += ms,
            Step::Entry(user, devices) => self.log.push((self.now_ms, user, devices)),
            Step::Apply(node, count) => self.apply(node, (self.nodes[node].applied + count).min(self.log.len())),
            Step::Open(node, just_left) => self.open(node, just_left),
            Step::Close => self.close(),
        }
        self.go_on();
    }
}

/// The most that a look found of what still was so within the time that a fall must last.
fn lasting(looks: &[(u64, u32)], now_ms: u64) -> u32 {
    let linger_ms = u64::try_from(LINGER.as_millis()).unwrap();
    let until = looks.iter().skip(1).map(|(at, _)| at + linger_ms).chain([u64::MAX]);
    // As many as before is no fall.
    let mut counts: Vec<(u32, u64)> = looks.iter().map(|(_, devices)| *devices).zip(until).collect();
    for n in (1..counts.len()).rev() {
        if counts[n].0 >= counts[n - 1].0 {
            counts[n - 1].1 = 0;
        }
    }
    counts.iter().filter(|(_, until)| *until > now_ms).map(|(devices, _)| *devices).max().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn watchers_converge(steps in steps(), last in 0..NODES) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.open(last, false);
        for _ in 0..400 {
            world.step(&Step::Wait(50));
        }
        for whose in 0..USERS {
            let devices = world.devices(whose, world.log.len());
            prop_assert_eq!(world.known.get(&whose).map(|known| known.devices), Some(devices), "of user {}", whose);
        }
        // Quiet is quiet.
        let told = world.told;
        for _ in 0..400 {
            world.step(&Step::Wait(50));
        }
        prop_assert_eq!(world.told, told);
    }
}
