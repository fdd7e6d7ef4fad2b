//! The origin's send queue against the real state machine: G1–G3 under arbitrary loss, delay,
//! repetition and crash of either end.
//!
//! Nodes propose into one log, late, repeatedly or not at all; each replica applies the log at its
//! own pace; nodes crash, are declared down, or jump ahead by a checkpoint; clients repeat what has
//! no answer on their next connection, in order, before anything new. At the end everything heals,
//! and each client's messages must stand in the recipient's inbox once, in order, without holes.

mod lone;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use cluster::env::clock::Instant;
use cluster::id::{Boot, DeviceId, MessageId, NodeId, Pos, UserId};
use cluster::origin::{Events, Key, Origin, Replica};
use cluster::session::{Event, Outgoing, Request, SessionSpec};
use cluster::state::{
    Batch, Body, Command, Destination, Effect, FEATURE_LEVEL, Item, Limits, NodeUp, Op, Register, State,
};
use proptest::prelude::*;

const NODES: usize = 3;
const CLIENTS: usize = 3;
/// Most that a client has unanswered, and exactly what the replicated ring remembers.
const WINDOW: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    /// A client sends one more message.
    Send(usize),
    /// A client connects to a node, whether or not it was connected.
    Connect(usize, usize),
    /// A client's connection is lost.
    Disconnect(usize),
    /// A node cuts a batch or asks for a generation, and proposes so many copies; 0 loses it.
    Propose(usize, usize),
    /// An old proposal arrives after all.
    Late(usize),
    /// A node applies some entries.
    Apply(usize, usize),
    /// A node installs a checkpoint at the end of the log.
    Jump(usize),
    /// The leader declares a node down.
    Down(usize),
    /// A node's process dies and starts again.
    Crash(usize),
    /// Old tokens of a client's user are revoked; its own is newer.
    Revoke(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..CLIENTS).prop_map(Step::Send),
        2 => (0..CLIENTS, 0..NODES).prop_map(|(client, node)| Step::Connect(client, node)),
        1 => (0..CLIENTS).prop_map(Step::Disconnect),
        6 => (0..NODES, 0..3_usize).prop_map(|(node, copies)| Step::Propose(node, copies)),
        2 => any::<usize>().prop_map(Step::Late),
        8 => (0..NODES, 1..6_usize).prop_map(|(node, count)| Step::Apply(node, count)),
        1 => (0..NODES).prop_map(Step::Jump),
        1 => (0..NODES).prop_map(Step::Down),
        1 => (0..NODES).prop_map(Step::Crash),
        2 => (0..CLIENTS).prop_map(Step::Revoke),
    ]
}

struct Node {
    origin: Origin,
    state: State,
    applied: usize,
    boot: u64,
    pending: Option<Command>,
}

#[derive(Default)]
struct Client {
    /// Messages made so far.
    made: u64,
    /// Made, but without an `ok`, in order.
    unanswered: VecDeque<u64>,
    /// How many of them were sent on this connection.
    sent: usize,
    answered: Vec<u64>,
    session: Option<(usize, Key)>,
    attempt: u64,
}

struct World {
    log: Vec<Command>,
    /// Proposals that may still arrive.
    limbo: Vec<Command>,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    next_key: Key,
}

fn node_id(index: usize) -> NodeId {
    NodeId(index as u64 + 1)
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid name")
}

fn sender(client: usize) -> UserId {
    user(&format!("sender-{client}"))
}

fn device() -> DeviceId {
    DeviceId::new("d").expect("a valid name")
}

fn message(client: usize, number: u64) -> Outgoing {
    let (from, to) = (sender(client), user("reader"));
    let body = Bytes::from(number.to_string());
    let mid = MessageId::direct(&from, &device(), &to, &number.to_string(), &body);
    Outgoing { mid, to: Destination::User(to), ts_ms: 0, body, arrived: Instant::default(), trace: None }
}

fn node_up(node: NodeId, boot: u64, incarnation: u32) -> Command {
    let boot = Boot { count: boot, nonce: boot };
    Command::NodeUp(NodeUp { node, boot, incarnation, client_url: String::new(), feature_level: FEATURE_LEVEL })
}

impl World {
    fn new() -> Self {
        let node = |index| Node {
            origin: Origin::new(node_id(index)),
            state: State::new(),
            applied: 0,
            boot: 1,
            pending: None,
        };
        Self {
            log: vec![
                Command::SetLimits(Limits { inflight: WINDOW as u32, ..Limits::default() }),
                Command::SetFeatureLevel(FEATURE_LEVEL),
            ],
            limbo: Vec::new(),
            nodes: (0..NODES).map(node).collect(),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            next_key: 1,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Send(client) => {
                let client = &mut self.clients[client];
                if client.unanswered.len() < WINDOW {
                    client.made += 1;
                    client.unanswered.push_back(client.made);
                }
            }
            Step::Connect(client, node) => {
                self.disconnect(client);
                self.connect(client, node);
            }
            Step::Disconnect(client) => self.disconnect(client),
            Step::Propose(node, copies) => self.propose(node, copies),
            Step::Late(which) => {
                if !self.limbo.is_empty() {
                    let late = self.limbo[which % self.limbo.len()].clone();
                    self.log.push(late);
                }
            }
            Step::Apply(node, count) => self.apply(node, count),
            Step::Jump(node) => self.jump(node),
            Step::Down(node) => self.declare_down(node),
            Step::Crash(node) => self.crash(node),
            Step::Revoke(client) => self.log.push(Command::Revoke { user: sender(client), before_ms: 1 }),
        }
        self.push_sends();
    }

    fn connect(&mut self, client: usize, node: usize) {
        let key = self.next_key;
        self.next_key += 1;
        self.clients[client].attempt += 1;
        let spec = SessionSpec {
            user: sender(client),
            device: device(),
            instance: 7,
            attempt: self.clients[client].attempt,
            ephemeral: false,
        };
        self.nodes[node].origin.open(key, spec);
        self.clients[client].session = Some((node, key));
        self.clients[client].sent = 0;
    }

    fn disconnect(&mut self, client: usize) {
        if let Some((node, key)) = self.clients[client].session.take() {
            self.nodes[node].origin.close(key, false);
        }
    }

    /// Clients write what they have; the origin queues it until the session lives.
    fn push_sends(&mut self) {
        for (index, client) in self.clients.iter_mut().enumerate() {
            let Some((node, key)) = client.session else { continue };
            while client.sent < client.unanswered.len() {
                let number = client.unanswered[client.sent];
                self.nodes[node].origin.ask(key, number, Request::Send(message(index, number)));
                client.sent += 1;
            }
        }
    }

    fn propose(&mut self, index: usize, copies: usize) {
        let node = &mut self.nodes[index];
        let settled = match &node.pending {
            Some(Command::Batch(batch)) => {
                node.origin.in_flight() != Some(batch.seq) || node.origin.generation() != Some(batch.generation)
            }
            Some(Command::NodeUp(up)) => {
                node.origin.incarnation() != up.incarnation || node.origin.generation().is_some()
            }
            _ => true,
        };
        if settled {
            let state = &node.state;
            let last = |user: &UserId, device: &DeviceId| state.last_registration(user, device);
            node.pending = if node.origin.generation().is_none() {
                Some(node_up(node_id(index), node.boot, node.origin.incarnation()))
            } else {
                node.origin
                    .cut(Instant::from_nanos(u64::MAX), &Replica { feature_level: FEATURE_LEVEL, last })
                    .map(Command::Batch)
            };
        }
        if let Some(command) = &node.pending {
            self.limbo.push(command.clone());
            self.log.extend(std::iter::repeat_n(command.clone(), copies));
        }
    }

    fn apply(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let node = &mut self.nodes[index];
            let Some(command) = self.log.get(node.applied) else { return };
            let mut effects = Vec::new();
            node.state.apply(node.applied as u64 + 1, command, &mut effects);
            node.applied += 1;
            for effect in effects {
                let events = react(&mut self.nodes[index].origin, node_id(index), effect);
                self.tell(index, events);
            }
        }
    }

    fn jump(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.applied == self.log.len() {
            return;
        }
        while node.applied < self.log.len() {
            node.state.apply(node.applied as u64 + 1, &self.log[node.applied], &mut Vec::new());
            node.applied += 1;
        }
        let events = node.origin.rejoin();
        self.tell(index, events);
    }

    fn declare_down(&mut self, index: usize) {
        // Whoever leads has applied everything.
        let mut leader = State::new();
        for (at, command) in self.log.iter().enumerate() {
            leader.apply(at as u64 + 1, command, &mut Vec::new());
        }
        if let Some(generation) = leader.node(node_id(index)).and_then(|record| record.generation) {
            self.log.push(Command::NodeDown { node: node_id(index), generation });
        }
    }

    fn crash(&mut self, index: usize) {
        for client in &mut self.clients {
            if client.session.is_some_and(|(node, _)| node == index) {
                client.session = None;
            }
        }
        let node = &mut self.nodes[index];
        node.origin = Origin::new(node_id(index));
        node.boot += 1;
        node.pending = None;
    }

    fn tell(&mut self, index: usize, events: Events) {
        for (key, event) in events {
            let mut clients = self.clients.iter_mut().enumerate();
            let Some((number, client)) = clients.find(|(_, client)| client.session == Some((index, key))) else {
                continue;
            };
            match event {
                Event::Sent { token, result } => {
                    assert_eq!(client.unanswered.front(), Some(&token), "client {number}: answers come in order");
                    assert!(result.is_ok(), "nothing here can be refused");
                    client.unanswered.pop_front();
                    client.sent -= 1;
                    client.answered.push(token);
                }
                // Its token still counts.
                Event::Registered { .. } => self.nodes[index].origin.confirm(key),
                Event::Superseded | Event::Refused(_) => {
                    panic!("client {number} has one connection at a time, yet {event:?}");
                }
                _ => {}
            }
        }
    }

    fn heal(&mut self) {
        for client in 0..CLIENTS {
            if self.clients[client].session.is_none() {
                self.connect(client, client % NODES);
            }
        }
        for round in 0.. {
            self.push_sends();
            for node in 0..NODES {
                self.propose(node, 1);
            }
            for node in 0..NODES {
                self.apply(node, usize::MAX);
            }
            if self.clients.iter().all(|client| client.unanswered.is_empty()) {
                break;
            }
            assert!(round < 50, "does not converge");
        }
    }
}

fn react(origin: &mut Origin, me: NodeId, effect: Effect) -> Events {
    match effect {
        Effect::BatchApplied { node, generation, seq, outcomes } if node == me => {
            origin.on_applied(generation, seq, &outcomes, Instant::default())
        }
        Effect::BatchRefused { node, generation, seq, refusal } if node == me => {
            origin.on_refused(generation, seq, refusal)
        }
        Effect::Superseded { node, epoch } if node == me => origin.on_superseded(epoch),
        Effect::Ended { node, epoch } if node == me => origin.on_ended(epoch),
        Effect::NodeUp { node, generation, .. } if node == me => origin.on_node_up(generation),
        Effect::NodeDown { node, generation } if node == me => origin.on_node_down(generation),
        _ => Vec::new(),
    }
}

/// Each client's messages in the recipient's inbox, read by a device that inherits it.
fn inbox(state: &mut State, index: u64) -> BTreeMap<String, Vec<u64>> {
    let (reader, id) = (user("reader"), NodeId(99));
    state.apply(index, &node_up(id, 1, 1), &mut Vec::new());
    let register = Register {
        user: reader.clone(),
        device: device(),
        instance: 1,
        attempt: 1,
        ephemeral: false,
        expect: Pos::ZERO,
    };
    let generation = state.node(id).and_then(|record| record.generation).expect("just up");
    let batch = Batch { node: id, generation, seq: 1, ops: vec![Op::Register(register)] };
    state.apply(index + 1, &Command::Batch(batch), &mut Vec::new());
    let mut seen = BTreeMap::<String, Vec<u64>>::new();
    for item in state.inbox(&reader, &device(), Pos::ZERO, usize::MAX, usize::MAX) {
        let Item::Message(message) = item else { panic!("nothing lapses here") };
        let Body::Memory(body) = &message.body else { panic!("nothing is evicted here") };
        let number = std::str::from_utf8(body).expect("a number").parse().expect("a number");
        seen.entry(message.from.to_string()).or_default().push(number);
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_stored_once_and_in_order(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.heal();
        let end = world.log.len() as u64;
        prop_assert_eq!(world.nodes[0].state.hash(), world.nodes[1].state.hash());
        let seen = inbox(&mut world.nodes[0].state, end + 1);
        for (number, client) in world.clients.iter().enumerate() {
            let expected: Vec<u64> = (1..=client.made).collect();
            prop_assert_eq!(&client.answered, &expected, "client {} was answered", number);
            let stored = seen.get(sender(number).as_str()).cloned().unwrap_or_default();
            prop_assert_eq!(&stored, &expected, "client {}'s messages are stored", number);
        }
    }
}
