//! Logs: what several nodes with many sessions might bring about, in any order.
//!
//! A log is made from abstract steps, so that it shrinks well. To name sessions and batches that
//! exist, making it keeps a replica; tests apply the log to replicas of their own.

use std::fmt;

use bytes::Bytes;
use cluster::id::{Boot, DeviceId, Epoch, GroupId, MessageId, NodeId, Pos, UserId};
use cluster::state::{
    Batch, Command, Effect, FEATURE_LEVEL, GroupAct, GroupLimits, GroupOp, GroupSend, Limits, NodeUp, Op, Outcome,
    Register, Send, State,
};
use cluster::trace::{SpanId, TraceContext, TraceId};
use proptest::collection::vec;
use proptest::prelude::*;

pub const USERS: u8 = 3;
pub const DEVICES: u8 = 3;
pub const NODES: u8 = 2;
pub const GROUPS: u8 = 2;

/// A log; printed one entry a line.
#[derive(Clone)]
pub struct Log(pub Vec<Entry>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|entry| write!(f, "\n{} {:?}", entry.index, entry.command))
    }
}

/// One log entry; without a command it is one that Raft itself wrote.
#[derive(Debug, Clone)]
pub struct Entry {
    pub index: u64,
    pub command: Option<Command>,
}

impl Entry {
    pub fn apply(&self, state: &mut State) -> Vec<Effect> {
        let mut effects = Vec::new();
        match &self.command {
            Some(command) => state.apply(self.index, command, &mut effects),
            None => state.note_applied(self.index),
        }
        effects
    }
}

pub fn user(n: u8) -> UserId {
    UserId::new(&format!("user{n}")).unwrap()
}

pub fn device(n: u8) -> DeviceId {
    DeviceId::new(&format!("device{n}")).unwrap()
}

pub fn node(n: u8) -> NodeId {
    NodeId(u64::from(n) + 1)
}

pub fn group(n: u8) -> GroupId {
    GroupId::new(&format!("group{n}")).unwrap()
}

pub fn groups() -> impl Iterator<Item = GroupId> {
    (0..GROUPS).map(group)
}

pub fn users() -> impl Iterator<Item = UserId> {
    (0..USERS).map(user)
}

pub fn devices() -> impl Iterator<Item = DeviceId> {
    (0..DEVICES).map(device)
}

/// A step of making a log. Numbers choose among what there is at that time.
#[derive(Debug, Clone)]
pub enum Step {
    /// A node begins an incarnation; `again` brings an announcement of the past, or a copied disk's.
    NodeUp {
        node: u8,
        reboot: bool,
        again: Option<u8>,
    },
    /// A generation is declared down, the current one or an older one.
    NodeDown {
        node: u8,
        current: bool,
    },
    NodeForgotten {
        node: u8,
    },
    Batch {
        node: u8,
        fate: Fate,
        ops: Vec<OpStep>,
    },
    /// Something that was proposed before comes again, or now for the first time.
    Late {
        which: u16,
    },
    Tick {
        advance_ms: u64,
    },
    Limits(Limits),
    GroupLimits(GroupLimits),
    Breaker(bool),
    FeatureLevel(u32),
    Revoke {
        user: u8,
        before_ms: u64,
    },
    Blank,
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Applied,
    /// Not now; a later [`Step::Late`] may bring it.
    Lost,
    /// Numbered as if one before it were missing.
    AfterGap,
    /// Carries a generation of the past.
    OldGeneration,
}

#[derive(Debug, Clone)]
pub enum OpStep {
    Register { user: u8, device: u8, instance: u8, attempt: u8, ephemeral: bool, expect: Option<u8> },
    Send { session: u8, to: u8, key: u8 },
    Ack { session: u8, upto: u8 },
    Close { session: u8, clean: bool },
    Forget { user: u8, device: u8 },
    ForgetBy { session: u8, device: u8 },
    GroupSend { session: u8, group: u8, key: u8 },
    Group { session: u8, group: u8, act: GroupAct },
    Refuse { session: u8, to: u8, key: u8 },
}

pub fn limits() -> impl Strategy<Value = Limits> {
    (1..5_u32, 1..7_u32, 20..80_u64, 1..4_u32, 1..9_u64).prop_map(|(inflight, messages, bytes, devices, scale)| {
        Limits {
            inflight,
            inbox_messages: messages,
            inbox_bytes: bytes,
            devices_per_user: devices,
            message_ttl_ms: 1_000 * scale,
            device_ttl_ms: 4_000,
            ephemeral_ttl_ms: 500 * scale,
            ring_ttl_ms: 3_000,
        }
    })
}

pub fn group_limits() -> impl Strategy<Value = GroupLimits> {
    (1..4_u32, 1..3_u32).prop_map(|(members, per_user)| GroupLimits { members, per_user })
}

pub fn act() -> impl Strategy<Value = GroupAct> {
    prop_oneof![3 => Just(GroupAct::Create), 5 => Just(GroupAct::Join), 1 => Just(GroupAct::Leave)]
}

fn op() -> impl Strategy<Value = OpStep> {
    // One user gets most of it, so that limits are met.
    let to = prop_oneof![2 => Just(0_u8), 1 => 0..USERS];
    let register = (to.clone(), 0..DEVICES, 0..5_u8, 0..4_u8, any::<bool>(), prop::option::weighted(0.1, any::<u8>()));
    prop_oneof![
        5 => register.prop_map(|(user, device, instance, attempt, ephemeral, expect)| OpStep::Register {
            user, device, instance, attempt, ephemeral, expect
        }),
        2 => (any::<u8>(), to.clone(), 0..6_u8).prop_map(|(session, to, key)| OpStep::Refuse { session, to, key }),
        12 => (any::<u8>(), to, 0..6_u8).prop_map(|(session, to, key)| OpStep::Send { session, to, key }),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(session, upto)| OpStep::Ack { session, upto }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(session, clean)| OpStep::Close { session, clean }),
        1 => (0..USERS, 0..DEVICES).prop_map(|(user, device)| OpStep::Forget { user, device }),
        1 => (any::<u8>(), 0..DEVICES).prop_map(|(session, device)| OpStep::ForgetBy { session, device }),
        10 => (any::<u8>(), 0..GROUPS, 0..6_u8)
            .prop_map(|(session, group, key)| OpStep::GroupSend { session, group, key }),
        8 => (any::<u8>(), 0..GROUPS, act()).prop_map(|(session, group, act)| OpStep::Group { session, group, act }),
    ]
}

fn step(ops: usize) -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        12 => Just(Fate::Applied),
        1 => Just(Fate::Lost),
        1 => Just(Fate::AfterGap),
        1 => Just(Fate::OldGeneration),
    ];
    prop_oneof![
        2 => (0..NODES, any::<bool>(), prop::option::weighted(0.3, any::<u8>()))
            .prop_map(|(node, reboot, again)| Step::NodeUp { node, reboot, again }),
        1 => (0..NODES, prop::bool::weighted(0.8)).prop_map(|(node, current)| Step::NodeDown { node, current }),
        60 => (0..NODES, fate, vec(op(), 0..=ops)).prop_map(|(node, fate, ops)| Step::Batch { node, fate, ops }),
        4 => any::<u16>().prop_map(|which| Step::Late { which }),
        4 => (0..300_u64).prop_map(|advance_ms| Step::Tick { advance_ms }),
        1 => (0..9_000_u64).prop_map(|advance_ms| Step::Tick { advance_ms }),
        1 => limits().prop_map(Step::Limits),
        2 => group_limits().prop_map(Step::GroupLimits),
        3 => any::<bool>().prop_map(Step::Breaker),
        2 => (0..USERS, 0..100_u64).prop_map(|(user, before_ms)| Step::Revoke { user, before_ms }),
        1 => Just(Step::Blank),
        1 => prop_oneof![
            4 => (0..=FEATURE_LEVEL).prop_map(Step::FeatureLevel),
            1 => (0..NODES).prop_map(|node| Step::NodeForgotten { node }),
        ],
    ]
}

/// Any log. It begins with limits and two nodes, as every cluster does.
pub fn any_log(steps: usize) -> impl Strategy<Value = Log> {
    let level = prop_oneof![1 => 1..FEATURE_LEVEL, 3 => Just(FEATURE_LEVEL)];
    (limits(), level, vec(step(5), 0..steps)).prop_map(|(limits, level, steps)| make(limits, level, &steps))
}

/// A log that can be followed from outside: one operation in a batch, limits that stay, no groups, copies or
/// drills, and only ephemeral devices are forgotten for their age.
pub fn plain_log(steps: usize) -> impl Strategy<Value = Log> {
    (limits(), vec(step(1), 0..steps)).prop_map(|(limits, mut steps)| {
        steps.retain(|step| !matches!(step, Step::Limits(_) | Step::GroupLimits(_) | Step::FeatureLevel(_)));
        for step in &mut steps {
            let Step::Batch { ops, .. } = step else { continue };
            ops.retain(|op| !matches!(op, OpStep::GroupSend { .. } | OpStep::Group { .. } | OpStep::Refuse { .. }));
        }
        make(Limits { device_ttl_ms: u64::MAX, ..limits }, 1, &steps)
    })
}

fn make(limits: Limits, level: u32, steps: &[Step]) -> Log {
    let mut maker = Maker::new();
    maker.step(&Step::Limits(limits));
    maker.step(&Step::FeatureLevel(level));
    maker.step(&Step::NodeUp { node: 0, reboot: false, again: None });
    maker.step(&Step::NodeUp { node: 1, reboot: false, again: None });
    steps.iter().for_each(|step| maker.step(step));
    Log(maker.log)
}

/// Some messages are traced.
fn trace(key: u8) -> Option<TraceContext> {
    let span = SpanId(u64::from(key).try_into().ok()?);
    key.is_multiple_of(4).then_some(TraceContext { trace: TraceId([key; 16]), span })
}

fn body(key: u8) -> Bytes {
    Bytes::from(vec![b'a' + key; [4, 11, 25][usize::from(key) % 3]])
}

/// Makes a log step by step.
pub struct Maker {
    pub log: Vec<Entry>,
    pub state: State,
    /// All commands of the past, lost ones too.
    proposed: Vec<Command>,
    /// All sessions of the past.
    epochs: Vec<Epoch>,
    /// All generations of the past.
    generations: Vec<(NodeId, Pos)>,
    boots: u64,
}

impl Maker {
    pub fn new() -> Self {
        let (log, proposed, epochs, generations) = Default::default();
        Self { log, state: State::new(), proposed, epochs, generations, boots: 0 }
    }

    /// Appends an entry and returns its effects.
    pub fn append(&mut self, command: Option<Command>) -> Vec<Effect> {
        // Uneven steps: Raft's own entries lie between.
        let index = self.state.applied() + 1 + self.state.applied() % 2;
        let entry = Entry { index, command };
        let effects = entry.apply(&mut self.state);
        for effect in &effects {
            match effect {
                Effect::NodeUp { node, generation, .. } => self.generations.push((*node, *generation)),
                Effect::BatchApplied { outcomes, .. } => {
                    for outcome in outcomes {
                        if let Outcome::Registered(epoch) = outcome {
                            self.epochs.push(*epoch);
                        }
                    }
                }
                _ => {}
            }
        }
        self.log.push(entry);
        effects
    }

    fn propose(&mut self, command: Command) {
        self.proposed.push(command.clone());
        self.append(Some(command));
    }

    pub fn step(&mut self, step: &Step) {
        match *step {
            Step::NodeUp { node: n, reboot, again } => {
                let up = self.announcement(node(n), reboot, again);
                self.propose(Command::NodeUp(up));
            }
            Step::NodeDown { node: n, current } => {
                let node = node(n);
                let living = self.state.node(node).and_then(|record| record.generation);
                let generation = if current { living } else { self.past_generation(node) };
                self.propose(Command::NodeDown { node, generation: generation.unwrap_or(Pos(1)) });
            }
            Step::NodeForgotten { node: n } => self.propose(Command::NodeForgotten { node: node(n) }),
            Step::Batch { node: n, fate, ref ops } => {
                let batch = self.batch(node(n), fate, ops);
                match fate {
                    Fate::Lost => self.proposed.push(Command::Batch(batch)),
                    _ => self.propose(Command::Batch(batch)),
                }
            }
            Step::Late { which } => {
                if !self.proposed.is_empty() {
                    let again = self.proposed[usize::from(which) % self.proposed.len()].clone();
                    self.append(Some(again));
                }
            }
            Step::Tick { advance_ms } => self.propose(Command::Tick { advance_ms }),
            Step::Limits(ref limits) => self.propose(Command::SetLimits(limits.clone())),
            Step::GroupLimits(ref limits) => self.propose(Command::SetGroupLimits(limits.clone())),
            Step::Breaker(open) => self.propose(Command::SetBreaker { open }),
            Step::FeatureLevel(level) => self.propose(Command::SetFeatureLevel(level)),
            Step::Revoke { user: whose, before_ms } => {
                self.propose(Command::Revoke { user: user(whose), before_ms });
            }
            Step::Blank => {
                self.append(None);
            }
        }
    }

    fn past_generation(&self, node: NodeId) -> Option<Pos> {
        self.generations.iter().find(|(of, _)| *of == node).map(|(_, generation)| *generation)
    }

    fn announcement(&mut self, node: NodeId, reboot: bool, again: Option<u8>) -> NodeUp {
        let ups = self.proposed.iter().filter_map(|command| match command {
            Command::NodeUp(up) if up.node == node => Some(up),
            _ => None,
        });
        let ups: Vec<_> = ups.collect();
        let client_url = "ws://here".to_owned();
        let boot = |count| Boot { count, nonce: 1_000 + self.boots };
        let up = match (ups.last(), again) {
            (Some(_), Some(which)) if which % 4 > 0 => ups[usize::from(which) % ups.len()].clone(),
            // The same boot number, but another process: a disk was copied.
            (Some(last), Some(_)) => NodeUp { boot: boot(last.boot.count), ..(*last).clone() },
            (Some(last), None) if !reboot => NodeUp { incarnation: last.incarnation + 1, ..(*last).clone() },
            (last, _) => {
                let count = last.map_or(1, |last| last.boot.count + 1);
                NodeUp { node, boot: boot(count), incarnation: 1, client_url, feature_level: 1 }
            }
        };
        self.boots += 1;
        up
    }

    fn batch(&self, node: NodeId, fate: Fate, ops: &[OpStep]) -> Batch {
        let record = self.state.node(node);
        let living = record.and_then(|record| record.generation);
        let generation = if fate == Fate::OldGeneration { self.past_generation(node) } else { living };
        let seq = record.map_or(1, |record| record.next_seq) + u64::from(fate == Fate::AfterGap);
        let ops = ops.iter().map(|op| self.op(node, op)).collect();
        Batch { node, generation: generation.unwrap_or(Pos(1)), seq, ops }
    }

    /// Mostly a live session of this node; else any of the past, or none at all.
    fn session(&self, node: NodeId, which: u8) -> Epoch {
        let live = |epoch: &&Epoch| self.state.session(**epoch).is_some_and(|(_, _, of)| of == node);
        let live: Vec<_> = self.epochs.iter().filter(live).collect();
        match (live.len(), self.epochs.len()) {
            (_, 0) => Pos(7),
            (0, count) => self.epochs[usize::from(which) % count],
            (_, count) if which >= 240 => self.epochs[usize::from(which) % count],
            (count, _) => *live[usize::from(which) % count],
        }
    }

    fn op(&self, node: NodeId, op: &OpStep) -> Op {
        match *op {
            OpStep::Register { user: u, device: d, instance, attempt, ephemeral, expect } => {
                let (user, device) = (user(u), device(d));
                let right = self.state.device(&user, &device).map_or(Pos::ZERO, |view| view.last_epoch);
                let wrong = |which: u8| self.epochs.get(usize::from(which)).copied().unwrap_or(Pos::ZERO);
                let expect = expect.map_or(right, wrong);
                let (instance, attempt) = (u64::from(instance), u64::from(attempt));
                Op::Register(Register { user, device, instance, attempt, ephemeral, expect })
            }
            OpStep::Send { session, to, key } => {
                let send = self.send(self.session(node, session), user(to), key);
                if let Some(trace) = trace(key) { Op::TracedSend(send, trace) } else { Op::Send(send) }
            }
            OpStep::Refuse { session, to, key } => {
                let Send { epoch, mid, .. } = self.send(self.session(node, session), user(to), key);
                Op::Refuse { epoch, mid }
            }
            OpStep::Ack { session, upto } => {
                let epoch = self.session(node, session);
                Op::Ack { epoch, upto: self.upto(epoch, upto) }
            }
            OpStep::Close { session, clean } => Op::Close { epoch: self.session(node, session), clean },
            OpStep::Forget { user: u, device: d } => Op::Forget { user: user(u), device: device(d) },
            OpStep::ForgetBy { session, device: d } => {
                Op::ForgetBy { epoch: self.session(node, session), device: device(d) }
            }
            OpStep::GroupSend { session, group: g, key } => {
                let send = self.group_send(self.session(node, session), group(g), key);
                if let Some(trace) = trace(key) { Op::TracedGroupSend(send, trace) } else { Op::GroupSend(send) }
            }
            OpStep::Group { session, group: g, act } => {
                Op::Group(GroupOp { epoch: self.session(node, session), group: group(g), act })
            }
        }
    }

    fn sender(&self, epoch: Epoch) -> (UserId, DeviceId) {
        match self.state.session(epoch) {
            Some((user, device, _)) => (user.clone(), device.clone()),
            None => (user(0), device(0)),
        }
    }

    fn group_send(&self, epoch: Epoch, group: GroupId, key: u8) -> GroupSend {
        let body = body(key);
        let (from, sender) = self.sender(epoch);
        let mid = MessageId::group(&from, &sender, &group, &format!("key{key}"), &body);
        GroupSend { epoch, mid, group, ts_ms: u64::from(key), body }
    }

    fn send(&self, epoch: Epoch, to: UserId, key: u8) -> Send {
        let body = body(key);
        let (from, sender) = self.sender(epoch);
        let mid = MessageId::direct(&from, &sender, &to, &format!("key{key}"), &body);
        Send { epoch, mid, to, ts_ms: u64::from(key), body }
    }

    /// Something that the session could have received; rarely, what it could not.
    fn upto(&self, epoch: Epoch, which: u8) -> Pos {
        let Some((user, device, _)) = self.state.session(epoch) else { return Pos(u64::from(which)) };
        let items = self.state.inbox(user, device, Pos::ZERO, usize::MAX, usize::MAX);
        match items.len() {
            0 => Pos(u64::from(which)),
            _ if which >= 250 => Pos::new(self.state.applied() + 9, 0),
            count => items[usize::from(which) % count].seq(),
        }
    }
}
