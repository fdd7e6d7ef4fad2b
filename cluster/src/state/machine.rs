//! Applying commands: which part of the state each one changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::command::{ABSENT_LEVEL, Batch, COPIES_LEVEL, Command, NodeUp, Op, Register, SHARES_LEVEL, Send};
use super::effect::{Effect, FirstAck, Outcome, SendRefusal};
use super::groups::Wakes;
use super::limits::{GroupLimits, Limits};
use super::message::{Body, Destination, Message, Told};
use super::nodes::{Arrival, Nodes};
use super::revocation::Revocations;
use super::ring::SendResult;
use super::store::Store;
use super::user::{Context, Forgetting, MAX_ABSENT, MAX_ABSENT_OF_ONE, User};
use crate::id::{DeviceId, Epoch, MessageId, NodeId, Pos, UserId};
use crate::observer::Forgotten;
use crate::trace::{Mark, TraceContext};

/// A live session. Derived from the devices.
#[derive(Debug)]
pub(super) struct Session {
    pub user: UserId,
    pub device: DeviceId,
    pub node: NodeId,
}

/// The replicated state. See the module's documentation.
#[derive(Debug)]
pub struct State {
    pub(super) applied: u64,
    pub(super) time_ms: u64,
    pub(super) feature_level: u32,
    pub(super) limits: Limits,
    /// `None` until they were set: the defaults then.
    pub(super) group_limits: Option<GroupLimits>,
    /// Messages are stored, and delivered to nobody.
    pub(super) breaker_open: bool,
    pub(super) nodes: Nodes,
    pub(super) revocations: Revocations,
    pub(super) store: Store,
    /// The live sessions; never iterated.
    pub(super) sessions: HashMap<Epoch, Session>,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// Shards of the users; part of the checkpoints' format.
    pub const SHARDS: usize = 1024;

    /// The state before the first log entry.
    #[must_use]
    pub fn new() -> Self {
        Self {
            applied: 0,
            time_ms: 0,
            feature_level: 1,
            limits: Limits::default(),
            group_limits: None,
            breaker_open: false,
            nodes: Nodes::default(),
            revocations: Revocations::default(),
            store: Store::new(Self::SHARDS),
            sessions: HashMap::new(),
        }
    }

    /// Applies the log entry at `index`, and appends its consequences to `effects`.
    ///
    /// # Panics
    /// When `index` is 0 (no command is ever there) or not behind all that was applied, or a batch
    /// has more than [`Pos::MAX_OPS`] operations ([`Command::decode`] lets none pass).
    pub fn apply(&mut self, index: u64, command: &Command, effects: &mut Vec<Effect>) {
        assert!(index > 0, "the first log entry is no command");
        self.note_applied(index);
        match command {
            Command::Batch(batch) => self.apply_batch(index, batch, effects),
            Command::NodeUp(up) => self.node_up(Pos::new(index, 0), up, effects),
            Command::NodeDown { node, generation } => {
                if self.nodes.get(*node).is_some_and(|record| record.generation == Some(*generation)) {
                    self.end_generation(*node, effects);
                }
            }
            Command::NodeForgotten { node } => {
                self.end_generation(*node, effects);
                self.nodes.remove(*node);
            }
            Command::Tick { advance_ms } => self.tick(*advance_ms, effects),
            Command::SetLimits(limits) => self.limits = limits.clone(),
            Command::SetGroupLimits(limits) => self.group_limits = Some(limits.clone()),
            Command::SetBreaker { open } => self.set_breaker(*open, effects),
            Command::Revoke { user, before_ms } => self.revoke(user, *before_ms, effects),
            Command::SetFeatureLevel(level) => self.feature_level = self.feature_level.max(*level),
        }
    }

    /// Notes a log entry that holds no command.
    ///
    /// # Panics
    /// When `index` is not behind all that was applied.
    pub fn note_applied(&mut self, index: u64) {
        assert!(index > self.applied || self.applied == 0, "each log entry is applied once, in order");
        self.applied = index;
    }

    fn apply_batch(&mut self, index: u64, batch: &Batch, effects: &mut Vec<Effect>) {
        let &Batch { node, generation, seq, ref ops } = batch;
        if let Err(refusal) = self.nodes.admit(batch) {
            effects.push(Effect::BatchRefused { node, generation, seq, refusal });
            return;
        }
        let mut wakes = Wakes::default();
        let mut outcomes = Vec::with_capacity(ops.len());
        for (offset, op) in ops.iter().enumerate() {
            let pos = Pos::new(index, offset);
            outcomes.push(match op {
                Op::Register(register) => self.register(pos, node, register, effects),
                Op::Send(send) => self.send(pos, node, (send, None), effects, &mut wakes.users),
                Op::GroupSend(send) => self.group_send(pos, node, (send, None), effects, &mut wakes),
                Op::TracedSend(send, trace) => self.send(pos, node, (send, Some(*trace)), effects, &mut wakes.users),
                Op::TracedGroupSend(send, trace) => {
                    self.group_send(pos, node, (send, Some(*trace)), effects, &mut wakes)
                }
                Op::Group(op) => self.group_op(pos, node, op, &mut wakes),
                Op::Refuse { epoch, mid } => self.refuse(node, *epoch, *mid),
                Op::Ack { epoch, upto } => self.ack(pos, node, *epoch, *upto, effects),
                Op::Close { epoch, clean } => self.close(pos, node, (*epoch, *clean), effects),
                Op::Forget { user, device } => {
                    self.forget(pos, node, (user, device), effects);
                    Outcome::Done
                }
                Op::ForgetBy { epoch, device } => match self.session_of(node, *epoch) {
                    Some((user, _)) => {
                        self.forget(pos, node, (&user, device), effects);
                        Outcome::Done
                    }
                    None => Outcome::Fenced,
                },
            });
        }
        self.wake(wakes, effects);
        effects.push(Effect::BatchApplied { node, generation, seq, outcomes });
    }

    /// Changes a user, with what the change may look at. What it does to the user's devices, its
    /// groups learn; a cursor that moves is [`State::ack`]'s.
    pub(super) fn with<R>(
        &mut self,
        name: &UserId,
        effects: &mut Vec<Effect>,
        change: impl FnOnce(&UserId, &mut User, &mut Context) -> R,
    ) -> R {
        let (now_ms, feature_level) = (self.time_ms, self.feature_level);
        let mut ctx = Context { now_ms, limits: &self.limits, feature_level, effects };
        let (result, moved) = self.store.with(name, |name, user| {
            if user.groups.is_empty() {
                return (change(name, user, &mut ctx), None);
            }
            let before = user.positions();
            let result = change(name, user, &mut ctx);
            let after = user.positions();
            (result, (before != after).then_some((before, after)))
        });
        if let Some((before, after)) = moved {
            self.devices_changed(name, &before, &after);
        }
        result
    }

    /// A session, if it lives and is this node's.
    pub(super) fn session_of(&self, node: NodeId, epoch: Epoch) -> Option<(UserId, DeviceId)> {
        let session = self.sessions.get(&epoch).filter(|session| session.node == node)?;
        Some((session.user.clone(), session.device.clone()))
    }

    pub(super) fn end_session(&mut self, node: NodeId, epoch: Epoch) {
        self.sessions.remove(&epoch).expect("the session lives");
        self.nodes.remove_session(node, epoch);
    }

    fn register(&mut self, epoch: Epoch, node: NodeId, register: &Register, effects: &mut Vec<Effect>) -> Outcome {
        let result = self.with(&register.user, effects, |name, user, ctx| {
            let ended = user.register(name, register, epoch, node, ctx)?;
            let device = user.live(&register.device).id.clone();
            Ok((ended, Session { user: name.clone(), device, node }))
        });
        match result {
            Ok((ended, session)) => {
                match ended {
                    Some((node, epoch)) => {
                        self.end_session(node, epoch);
                        effects.push(Effect::Superseded { node, epoch });
                    }
                    None => effects.push(Effect::Presence(vec![session.user.clone()])),
                }
                self.sessions.insert(epoch, session);
                self.nodes.add_session(node, epoch);
                Outcome::Registered(epoch)
            }
            Err(refusal) => Outcome::RegisterRefused(refusal),
        }
    }

    fn send(
        &mut self,
        pos: Pos,
        node: NodeId,
        (send, trace): (&Send, Option<TraceContext>),
        effects: &mut Vec<Effect>,
        wake: &mut BTreeSet<UserId>,
    ) -> Outcome {
        let mid = send.mid;
        let Some((from, device)) = self.session_of(node, send.epoch) else { return Outcome::Fenced };
        let sender = self.store.user(&from);
        if let Some(first) = sender.and_then(|user| user.sent(&device, &mid)) {
            return Outcome::of_send(mid, first, true);
        }
        if self.is_one_absent_too_many(&from, &send.to) {
            self.remember(&from, &device, mid, Err(SendRefusal::InboxFull));
            return Outcome::of_send(mid, Err(SendRefusal::InboxFull), false);
        }
        let to_others = self.feature_level >= COPIES_LEVEL && from != send.to;
        let copied = to_others && sender.is_some_and(|user| user.devices.len() > 1);
        let (ts_ms, stored_at_ms) = (send.ts_ms, self.time_ms);
        let result = self.with(&send.to, effects, |name, user, ctx| {
            let (from, device, to) = (from.clone(), device.clone(), Destination::User(name.clone()));
            let (body, told) = (Body::Memory(send.body.clone()), Told::default());
            let trace = Mark::new(trace);
            ctx.effects.extend(trace.get().cloned().map(Effect::Traced));
            let message = Message { pos, mid, from, device, to, origin: node, ts_ms, stored_at_ms, body, told, trace };
            let message = Arc::new(message);
            user.store(name, message.clone(), ctx)?;
            if user.has_live() && !wake.contains(name) {
                wake.insert(name.clone());
            }
            Ok(message)
        });
        if let Ok(message) = &result
            && copied
            && self.with(&from, effects, |name, user, ctx| user.copy(name, message.clone(), ctx))
        {
            wake.insert(from.clone());
        }
        let result = result.map(|_| ());
        self.remember(&from, &device, mid, result);
        Outcome::of_send(mid, result, false)
    }

    /// Whether a message to this user would wait for one more who is absent than may be.
    fn is_one_absent_too_many(&self, from: &UserId, to: &UserId) -> bool {
        if self.feature_level < SHARES_LEVEL {
            let many = self.feature_level >= ABSENT_LEVEL && self.store.totals().absent_users >= MAX_ABSENT;
            return many && self.store.user(to).is_none();
        }
        let many = self.store.absent() >= MAX_ABSENT || self.store.absent_by(from) >= MAX_ABSENT_OF_ONE;
        many && self.store.user(to).is_none_or(|user| user.devices.is_empty() && user.inbox.is_empty())
    }

    /// A send that a drill wants to fail. What the ring knows of it goes first: it may be a repeat of one
    /// that was stored.
    fn refuse(&mut self, node: NodeId, epoch: Epoch, mid: MessageId) -> Outcome {
        let Some((from, device)) = self.session_of(node, epoch) else { return Outcome::Fenced };
        if let Some(first) = self.store.user(&from).and_then(|user| user.sent(&device, &mid)) {
            return Outcome::of_send(mid, first, true);
        }
        let result = Err(SendRefusal::InboxFull);
        self.remember(&from, &device, mid, result);
        Outcome::of_send(mid, result, false)
    }

    fn set_breaker(&mut self, open: bool, effects: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.breaker_open, open) != open {
            effects.push(Effect::Breaker { open });
        }
    }

    /// Notes the result of a live session's send in its device's ring.
    pub(super) fn remember(&mut self, from: &UserId, device: &DeviceId, mid: MessageId, result: SendResult) {
        let inflight = self.limits.inflight;
        self.store.with(from, |_, user| user.live(device).ring.push(mid, result, inflight));
    }

    fn ack(&mut self, pos: Pos, node: NodeId, epoch: Epoch, upto: Pos, effects: &mut Vec<Effect>) -> Outcome {
        let Some((by, device)) = self.session_of(node, epoch) else { return Outcome::Fenced };
        let (mut passed, before, after, groups) = self.store.with(&by, |_, user| {
            let before = user.live(&device).cursor.pos;
            let passed = user.ack(&device, upto, pos);
            let after = user.live(&device).cursor.pos;
            let groups = if before < after { user.groups.clone() } else { Vec::new() };
            (passed, before, after, groups)
        });
        let group = self.pass(&by, &groups, before, after, &mut passed.first);
        if passed.count + group > 0 {
            let first = passed.first.into_iter();
            let first = first.map(|message| FirstAck { message, by: by.clone(), device: device.clone() });
            effects.push(Effect::Acked { node, epoch, count: passed.count, group, first: first.collect() });
        }
        Outcome::Done
    }

    fn close(&mut self, pos: Pos, node: NodeId, (epoch, clean): (Epoch, bool), effects: &mut Vec<Effect>) -> Outcome {
        let Some((name, device)) = self.session_of(node, epoch) else { return Outcome::Fenced };
        self.end_session(node, epoch);
        effects.push(Effect::Presence(vec![name.clone()]));
        self.with(&name, effects, |name, user, ctx| {
            user.disconnect(&device, ctx.now_ms, ctx.limits);
            if clean && user.live(&device).ephemeral {
                let forgetting = Forgetting { why: Forgotten::Left, by: Some(node), at: pos };
                user.forget(name, &device, forgetting, ctx);
            }
        });
        Outcome::Done
    }

    fn forget(&mut self, pos: Pos, by: NodeId, (name, device): (&UserId, &DeviceId), effects: &mut Vec<Effect>) {
        let forgetting = Forgetting { why: Forgotten::Request, by: Some(by), at: pos };
        let ended = self.with(name, effects, |name, user, ctx| user.forget(name, device, forgetting, ctx));
        if let Some((node, epoch)) = ended {
            self.end_session(node, epoch);
            effects.push(Effect::Superseded { node, epoch });
            effects.push(Effect::Presence(vec![name.clone()]));
        }
    }

    fn node_up(&mut self, generation: Pos, up: &NodeUp, effects: &mut Vec<Effect>) {
        let node = up.node;
        match self.nodes.judge(up) {
            Arrival::New => {
                self.end_generation(node, effects);
                self.nodes.begin(up, generation);
                effects.push(Effect::NodeUp { node, generation, nonce: up.boot.nonce });
            }
            Arrival::Late => {}
            Arrival::Copy { known } => {
                let (boot, nonce) = (up.boot.count, up.boot.nonce);
                effects.push(Effect::NodeRefused { node, boot, nonce, known });
            }
        }
    }

    /// Ends a node's living generation: all its sessions are lost connections from now on.
    fn end_generation(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let mut users = Vec::new();
        for epoch in self.nodes.end(node, effects) {
            let session = self.sessions.remove(&epoch).expect("the session lives");
            self.with(&session.user, effects, |_, user, ctx| {
                user.disconnect(&session.device, ctx.now_ms, ctx.limits);
            });
            users.push(session.user);
        }
        if !users.is_empty() {
            effects.push(Effect::Presence(users));
        }
    }
}
