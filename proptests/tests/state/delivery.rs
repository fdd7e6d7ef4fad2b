//! G1 to G3 end to end, without sockets: clients that repeat what got no answer, nodes that number
//! their batches, rejoin when in doubt, crash, lag behind and are declared down at the wrong time, and
//! a network that loses, repeats and delays proposals. In the end every message was stored once, in
//! the order it was sent, and every device got it in that order.

use std::collections::VecDeque;

use bytes::Bytes;
use cluster::id::{Boot, Epoch, MessageId, NodeId, Pos};
use cluster::state::{
    Batch, Command, Effect, Item, Limits, NodeUp, Op, Outcome, Register, RegisterRefusal, Send, State,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::log::{device, node, user};

const INFLIGHT: usize = 4;
const NODES: usize = 2;
/// The first client sends, the others are two devices of the user it sends to.
const CLIENTS: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    Connect {
        client: usize,
        node: usize,
    },
    Send,
    /// A device takes what its node has for it.
    Read {
        client: usize,
    },
    /// A node's batch or announcement is on its way, not for the first time perhaps.
    Propose {
        node: usize,
    },
    /// A proposal gets into the log, and perhaps later again.
    Commit {
        which: usize,
        again: bool,
    },
    Lose {
        which: usize,
    },
    Apply {
        node: usize,
        count: usize,
    },
    Rejoin {
        node: usize,
    },
    Crash {
        node: usize,
    },
    DeclareDown {
        node: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        3 => (0..CLIENTS, node()).prop_map(|(client, node)| Step::Connect { client, node }),
        12 => Just(Step::Send),
        6 => (1..CLIENTS).prop_map(|client| Step::Read { client }),
        16 => node().prop_map(|node| Step::Propose { node }),
        16 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Step::Commit { which, again }),
        2 => any::<usize>().prop_map(|which| Step::Lose { which }),
        16 => (node(), 1..4_usize).prop_map(|(node, count)| Step::Apply { node, count }),
        1 => node().prop_map(|node| Step::Rejoin { node }),
        1 => node().prop_map(|node| Step::Crash { node }),
        1 => node().prop_map(|node| Step::DeclareDown { node }),
    ]
}

/// A connection as its node sees it.
struct Connection {
    client: usize,
    attempt: u64,
    epoch: Option<Epoch>,
    /// Sends without an outcome, in order; the first `proposed` of them are in a batch.
    waiting: VecDeque<u32>,
    proposed: usize,
    read: Pos,
    acked: Pos,
}

/// What an operation of the batch in flight was for: the attempt of a connection, and its client.
type Purpose = (usize, u64);

struct Node {
    id: NodeId,
    state: State,
    boot: u64,
    incarnation: u32,
    generation: Option<Pos>,
    seq: u64,
    flying: Option<(Batch, Vec<Purpose>)>,
    connections: Vec<Connection>,
}

struct Client {
    node: usize,
    attempt: u64,
    /// Sent, and without an `ok`.
    open: VecDeque<u32>,
    sent: u32,
    got: Vec<MessageId>,
}

struct World {
    log: Vec<Command>,
    network: Vec<Command>,
    nodes: Vec<Node>,
    clients: Vec<Client>,
}

fn send_op(epoch: Epoch, key: u32) -> Send {
    let body = Bytes::from(key.to_string());
    let mid = MessageId::direct(&user(0), &device(0), &user(1), &key.to_string(), &body);
    Send { epoch, mid, to: user(1), ts_ms: 0, body }
}

impl Node {
    fn announcement(&self) -> Command {
        let boot = Boot { count: self.boot, nonce: self.boot };
        let (node, incarnation) = (self.id, self.incarnation);
        Command::NodeUp(NodeUp { node, boot, incarnation, client_url: String::new(), feature_level: 1 })
    }

    /// In doubt about a batch: a new incarnation, and everything without an outcome again.
    fn rejoin(&mut self) {
        self.incarnation += 1;
        self.generation = None;
        self.flying = None;
        for connection in &mut self.connections {
            (connection.epoch, connection.proposed, connection.acked) = (None, 0, Pos::ZERO);
        }
    }

    /// What this node would propose now.
    fn proposal(&mut self) -> Option<Command> {
        let Some(generation) = self.generation else { return Some(self.announcement()) };
        if self.flying.is_none() {
            let mut ops = Vec::new();
            let mut purposes = Vec::new();
            for of in &mut self.connections {
                let purpose = (of.client, of.attempt);
                let Some(epoch) = of.epoch else {
                    let (user, device) = identity(of.client);
                    let expect = self.state.device(&user, &device).map_or(Pos::ZERO, |view| view.last_epoch);
                    let (instance, attempt, ephemeral) = (1, of.attempt, false);
                    ops.push(Op::Register(Register { user, device, instance, attempt, ephemeral, expect }));
                    purposes.push(purpose);
                    continue;
                };
                ops.extend(of.waiting.iter().skip(of.proposed).map(|key| Op::Send(send_op(epoch, *key))));
                of.proposed = of.waiting.len();
                if of.read > of.acked {
                    of.acked = of.read;
                    ops.push(Op::Ack { epoch, upto: of.read });
                }
                purposes.resize(ops.len(), purpose);
            }
            if ops.is_empty() {
                return None;
            }
            self.flying = Some((Batch { node: self.id, generation, seq: self.seq + 1, ops }, purposes));
        }
        self.flying.as_ref().map(|(batch, _)| Command::Batch(batch.clone()))
    }

    fn connection(&mut self, (client, attempt): Purpose) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|of| of.client == client && of.attempt == attempt)
    }
}

fn identity(client: usize) -> (cluster::id::UserId, cluster::id::DeviceId) {
    if client == 0 { (user(0), device(0)) } else { (user(1), device(client as u8)) }
}

impl World {
    fn new() -> Self {
        let node = |n| Node {
            id: node(n),
            state: State::new(),
            boot: 1,
            incarnation: 1,
            generation: None,
            seq: 0,
            flying: None,
            connections: Vec::new(),
        };
        let client = |_| Client { node: 0, attempt: 0, open: VecDeque::new(), sent: 0, got: Vec::new() };
        let limits = Limits { inflight: INFLIGHT as u32, ..Limits::default() };
        Self {
            log: vec![Command::SetLimits(limits)],
            network: Vec::new(),
            nodes: (0..NODES as u8).map(node).collect(),
            clients: (0..CLIENTS).map(client).collect(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Connect { client, node } => self.connect(client, node),
            Step::Send => self.send(),
            Step::Read { client } => self.read(client),
            Step::Propose { node } => {
                let proposal = self.nodes[node].proposal();
                self.network.extend(proposal);
            }
            Step::Commit { which, again } if !self.network.is_empty() => {
                let which = which % self.network.len();
                self.log.push(self.network[which].clone());
                if !again {
                    self.network.remove(which);
                }
            }
            Step::Lose { which } if !self.network.is_empty() => {
                self.network.remove(which % self.network.len());
            }
            Step::Commit { .. } | Step::Lose { .. } => {}
            Step::Apply { node, count } => (0..count).for_each(|_| self.apply(node)),
            Step::Rejoin { node } => self.nodes[node].rejoin(),
            Step::Crash { node } => {
                let node = &mut self.nodes[node];
                node.rejoin();
                (node.boot, node.incarnation) = (node.boot + 1, 1);
                node.connections.clear();
            }
            Step::DeclareDown { node } => {
                let state = &self.nodes[0].state;
                let id = self.nodes[node].id;
                if let Some(generation) = state.node(id).and_then(|record| record.generation) {
                    self.log.push(Command::NodeDown { node: id, generation });
                }
            }
        }
    }

    /// A new connection. The old one's node does not notice; what it has still to do, it does.
    fn connect(&mut self, client: usize, node: usize) {
        let who = &mut self.clients[client];
        who.attempt += 1;
        who.node = node;
        let (attempt, waiting) = (who.attempt, who.open.clone());
        let (epoch, proposed, read, acked) = (None, 0, Pos::ZERO, Pos::ZERO);
        self.nodes[node].connections.push(Connection { client, attempt, epoch, waiting, proposed, read, acked });
    }

    /// The connection that a client uses, if its node has it still.
    fn connection(&mut self, client: usize) -> Option<&mut Connection> {
        let Client { node, attempt, .. } = self.clients[client];
        self.nodes[node].connection((client, attempt))
    }

    fn send(&mut self) {
        let (open, key) = (self.clients[0].open.len(), self.clients[0].sent);
        if open < INFLIGHT
            && let Some(connection) = self.connection(0)
        {
            connection.waiting.push_back(key);
            self.clients[0].open.push_back(key);
            self.clients[0].sent += 1;
        }
    }

    fn read(&mut self, client: usize) {
        let (user, device) = identity(client);
        let node = self.clients[client].node;
        let Some(Connection { epoch: Some(epoch), read, .. }) = self.connection(client) else { return };
        let (epoch, after) = (*epoch, *read);
        let state = &self.nodes[node].state;
        if state.session(epoch).is_none() {
            return;
        }
        let items = state.inbox(&user, &device, after, 2, usize::MAX);
        for item in &items {
            let Item::Message(message) = item else { panic!("nothing may be lost here: {item:?}") };
            // What was received before and not acknowledged in time comes again.
            if !self.clients[client].got.contains(&message.mid) {
                self.clients[client].got.push(message.mid);
            }
        }
        if let Some(last) = items.last() {
            self.connection(client).unwrap().read = last.seq();
        }
    }

    fn apply(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let index = node.state.applied() + 1;
        let Some(command) = self.log.get(index as usize - 1) else { return };
        let mut effects = Vec::new();
        node.state.apply(index, command, &mut effects);
        for effect in effects {
            let node = &mut self.nodes[n];
            match effect {
                Effect::NodeUp { node: id, generation, .. } if id == node.id => {
                    let record = node.state.node(id).unwrap();
                    if (record.boot.count, record.incarnation) == (node.boot, node.incarnation) {
                        (node.generation, node.seq) = (Some(generation), 0);
                    }
                }
                Effect::NodeDown { node: id, generation } if id == node.id && node.generation == Some(generation) => {
                    node.rejoin();
                }
                Effect::Superseded { node: id, epoch } if id == node.id => {
                    node.connections.retain(|of| of.epoch != Some(epoch));
                }
                Effect::BatchApplied { node: id, generation, seq, outcomes }
                    if id == node.id && node.generation == Some(generation) =>
                {
                    let (batch, purposes) = node.flying.take().expect("only what is in flight is applied");
                    assert_eq!(batch.seq, seq);
                    node.seq = seq;
                    let steps = batch.ops.into_iter().zip(purposes).zip(outcomes);
                    steps.for_each(|((op, purpose), outcome)| self.learn(n, op, purpose, &outcome));
                }
                _ => {}
            }
        }
    }

    fn learn(&mut self, n: usize, op: Op, purpose: Purpose, outcome: &Outcome) {
        let (client, attempt) = purpose;
        let Some(connection) = self.nodes[n].connection(purpose) else { return };
        match (op, outcome) {
            (Op::Register(_), Outcome::Registered(epoch)) => {
                let live = self.nodes[n].state.session(*epoch).is_some();
                let connection = self.nodes[n].connection(purpose).unwrap();
                // It may be over already: superseded by a later operation of the batch.
                connection.epoch = Some(*epoch).filter(|_| live);
            }
            (Op::Register(_), Outcome::RegisterRefused(RegisterRefusal::Conflict { .. })) => {}
            (Op::Send(send), Outcome::Stored { mid, .. }) => {
                assert_eq!(send.mid, *mid);
                let key = connection.waiting.pop_front().unwrap();
                connection.proposed -= 1;
                assert_eq!(send_op(Pos::ZERO, key).mid, *mid, "outcomes come in order");
                let client = &mut self.clients[client];
                if client.attempt == attempt {
                    assert_eq!(client.open.pop_front(), Some(key), "answers come in order");
                }
            }
            (Op::Ack { .. }, Outcome::Done) => {}
            // The session is over: superseded, or a newer attempt of the client is there.
            (_, Outcome::Fenced | Outcome::RegisterRefused(RegisterRefusal::OlderAttempt)) => {
                self.nodes[n].connections.retain(|of| (of.client, of.attempt) != purpose);
            }
            (op, outcome) => panic!("{op:?} ends with {outcome:?}"),
        }
    }

    /// From now on nothing goes wrong, and all that was sent gets through.
    fn heal(&mut self) {
        for _ in 0..30 {
            for client in 0..CLIENTS {
                if self.connection(client).is_none() {
                    let node = self.clients[client].node;
                    self.connect(client, 1 - node);
                }
                (0..10).for_each(|_| self.read(client));
            }
            for node in 0..NODES {
                self.step(Step::Propose { node });
            }
            self.log.append(&mut self.network);
            for node in 0..NODES {
                (0..self.log.len()).for_each(|_| self.apply(node));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_message_arrives_once_and_in_order(steps in vec(step(), 0..250)) {
        let mut world = World::new();
        for client in 0..CLIENTS {
            world.connect(client, client % NODES);
        }
        // The recipients are known before anything is sent, so that both get all of it.
        world.heal();
        for step in steps {
            world.step(step);
        }
        world.heal();

        let mut state = State::new();
        let mut stored = Vec::new();
        for (index, command) in (1..).zip(&world.log) {
            let mut effects = Vec::new();
            state.apply(index, command, &mut effects);
            let Some(Effect::BatchApplied { outcomes, .. }) = effects.pop() else { continue };
            stored.extend(outcomes.into_iter().filter_map(|outcome| match outcome {
                Outcome::Stored { mid, duplicate: false } => Some(mid),
                _ => None,
            }));
        }
        let sent: Vec<_> = (0..world.clients[0].sent).map(|key| send_op(Pos::ZERO, key).mid).collect();
        prop_assert_eq!(&stored, &sent, "stored once, in order");
        prop_assert!(world.clients[0].open.is_empty(), "everything is answered: {:?}", world.clients[0].open);
        for client in 1..CLIENTS {
            prop_assert_eq!(&world.clients[client].got, &sent, "received once, in order");
        }
        prop_assert_eq!(state.totals().inbox_messages, 0);
        for node in &world.nodes {
            prop_assert_eq!(node.state.hash(), state.hash());
        }
    }
}
