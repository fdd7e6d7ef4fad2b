//! A second, naive state machine. What the two agree on is hardly wrong in both.

use std::collections::{BTreeMap, BTreeSet};

use cluster::id::{Boot, DeviceId, Epoch, GroupId, MessageId, NodeId, Pos, UserId};
use cluster::state::{
    Batch, BatchRefusal, COPIES_LEVEL, Command, ENDING_LEVEL, GapReason, GroupLimits, GroupOp, GroupSend, Limits,
    NodeUp, OUTCASTS_LEVEL, Op, Outcome, REVOCATION_KEPT_MS, Register, RegisterRefusal, Send, SendRefusal,
};

use crate::model_groups::MGroup;
use crate::model_user::{MDevice, MMessage, MUser, Share};
use crate::seen::{Seen, in_order};

#[derive(Debug, Default)]
pub struct Model {
    pub time_ms: u64,
    pub level: u32,
    pub limits: Limits,
    pub nodes: BTreeMap<NodeId, MNode>,
    pub users: BTreeMap<UserId, MUser>,
    pub group_limits: GroupLimits,
    pub breaker_open: bool,
    pub groups: BTreeMap<GroupId, MGroup>,
    /// Until which time users' tokens are revoked, and when that is forgotten.
    pub revoked: BTreeMap<UserId, (u64, u64)>,
    /// Groups that were written to in the batch.
    pub written: BTreeSet<GroupId>,
}

#[derive(Debug)]
pub struct MNode {
    boot: Boot,
    incarnation: u32,
    pub generation: Option<Pos>,
    pub next_seq: u64,
}

impl Model {
    pub fn apply(&mut self, index: u64, command: &Command) -> Vec<Seen> {
        let mut effects = Vec::new();
        match command {
            Command::Batch(batch) => self.batch(index, batch, &mut effects),
            Command::NodeUp(up) => self.node_up(Pos::new(index, 0), up, &mut effects),
            Command::NodeDown { node, generation } => {
                if self.nodes.get(node).is_some_and(|of| of.generation == Some(*generation)) {
                    self.end_generation(*node, &mut effects);
                }
            }
            Command::NodeForgotten { node } => {
                self.end_generation(*node, &mut effects);
                self.nodes.remove(node);
            }
            Command::Tick { advance_ms } => {
                self.time_ms += advance_ms.min(&60_000);
                self.revoked.retain(|_, (_, forget_ms)| *forget_ms > self.time_ms);
                while self.due(Pos::new(index, 0), &mut effects) {}
            }
            Command::SetLimits(limits) => self.limits = limits.clone(),
            Command::SetFeatureLevel(level) => self.level = self.level.max(*level),
            Command::Revoke { user, before_ms } => {
                let known = self.revoked.get(user).map_or(0, |(known, _)| *known);
                let before_ms = known.max(*before_ms);
                self.revoked.insert(user.clone(), (before_ms, self.time_ms + REVOCATION_KEPT_MS));
                effects.push(Seen::Revoked(user.clone(), before_ms));
                let devices = self.users.get(user).into_iter().flat_map(|user| &user.devices);
                let live = devices.filter_map(|(id, device)| Some((id.clone(), device.node?, device.last.2)));
                for (id, node, epoch) in live.filter(|_| self.level >= ENDING_LEVEL).collect::<Vec<_>>() {
                    self.lose_connection(user, &id);
                    effects.push(Seen::Ended(node, epoch));
                }
            }
            Command::SetGroupLimits(limits) => self.group_limits = limits.clone(),
            Command::SetBreaker { open } => {
                if self.breaker_open != *open {
                    effects.push(Seen::Breaker(*open));
                }
                self.breaker_open = *open;
            }
        }
        in_order(effects)
    }

    fn batch(&mut self, index: u64, batch: &Batch, effects: &mut Vec<Seen>) {
        let node = self.nodes.get_mut(&batch.node).filter(|node| node.generation == Some(batch.generation));
        let refusal = match &node {
            None => Some(BatchRefusal::Fenced),
            Some(node) if batch.seq < node.next_seq => Some(BatchRefusal::Repeated),
            Some(node) if batch.seq > node.next_seq => Some(BatchRefusal::Gap { expected: node.next_seq }),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            effects.push(Seen::Batch(batch.node, batch.seq, format!("{refusal:?}")));
            return;
        }
        node.unwrap().next_seq += 1;
        let ops = batch.ops.iter().enumerate();
        let outcomes: Vec<_> = ops
            .map(|(offset, op)| {
                let outcome = self.op(Pos::new(index, offset), batch.node, op, effects);
                self.users.values_mut().for_each(MUser::tidy);
                self.users.retain(|_, user| user.remembered());
                outcome
            })
            .collect();
        effects.push(Seen::Batch(batch.node, batch.seq, format!("{outcomes:?}")));
        for group in std::mem::take(&mut self.written) {
            let members = &self.groups[&group].members;
            if !members.is_empty() {
                effects.push(Seen::WakeGroup(members.iter().cloned().collect()));
            }
        }
    }

    /// The user and device that have this live session.
    fn session(&self, node: NodeId, epoch: Epoch) -> Option<(UserId, DeviceId)> {
        for (name, user) in &self.users {
            for (id, device) in &user.devices {
                if device.last.2 == epoch && device.node == Some(node) {
                    return Some((name.clone(), id.clone()));
                }
            }
        }
        None
    }

    /// When something that is forgotten here was forgotten, and what its last registration is from then on.
    fn forgetting(&self, pos: Pos) -> (u64, Option<Pos>) {
        (self.time_ms, (self.level >= OUTCASTS_LEVEL).then_some(pos))
    }

    fn op(&mut self, pos: Pos, node: NodeId, op: &Op, effects: &mut Vec<Seen>) -> Outcome {
        let (limits, at) = (self.limits.clone(), self.forgetting(pos));
        let epoch = match op {
            Op::Register(register) => return self.register(pos, node, register, effects),
            Op::Forget { user, device } => {
                let of = self.users.entry(user.clone()).or_default();
                of.forget(user, device, at, &limits, effects);
                return Outcome::Done;
            }
            Op::Send(Send { epoch, .. })
            | Op::TracedSend(Send { epoch, .. }, _)
            | Op::Ack { epoch, .. }
            | Op::ForgetBy { epoch, .. }
            | Op::Close { epoch, .. } => *epoch,
            Op::Refuse { epoch, .. } => *epoch,
            Op::GroupSend(GroupSend { epoch, .. })
            | Op::TracedGroupSend(GroupSend { epoch, .. }, _)
            | Op::Group(GroupOp { epoch, .. }) => *epoch,
        };
        let Some((name, id)) = self.session(node, epoch) else { return Outcome::Fenced };
        match op {
            Op::Send(send) | Op::TracedSend(send, _) => return self.send(pos, &name, &id, send, effects),
            Op::Refuse { mid, .. } => return self.refuse(&name, &id, *mid),
            Op::GroupSend(send) | Op::TracedGroupSend(send, _) => {
                return self.group_send(pos, (&name, &id), send, effects);
            }
            Op::Group(op) => return self.group_op(pos, &name, op, effects),
            Op::Ack { upto, .. } => self.ack((pos, node), &name, &id, *upto, effects),
            Op::Close { clean, .. } => {
                self.lose_connection(&name, &id);
                let user = self.users.get_mut(&name).unwrap();
                if *clean && user.devices[&id].ephemeral {
                    user.forget(&name, &id, at, &limits, effects);
                }
            }
            Op::ForgetBy { device, .. } => {
                self.users.entry(name.clone()).or_default().forget(&name, device, at, &limits, effects);
            }
            Op::Register(_) | Op::Forget { .. } => unreachable!(),
        }
        Outcome::Done
    }

    fn register(&mut self, epoch: Epoch, node: NodeId, new: &Register, effects: &mut Vec<Seen>) -> Outcome {
        let user = self.users.entry(new.user.clone()).or_default();
        let known = user.devices.get(&new.device).map(|device| device.last);
        let last = known.or(user.gone.get(&new.device).map(|gone| gone.last));
        let mut replaced = last.and_then(|_| user.replaced.get(&new.device).cloned()).unwrap_or_default();
        let is_other = |(instance, _, _)| instance != new.instance;
        if last.is_some_and(is_other) && new.instance != 0 && replaced.contains(&new.instance) {
            return Outcome::RegisterRefused(RegisterRefusal::Replaced);
        }
        if last.is_some_and(|(instance, attempt, _)| instance == new.instance && attempt > new.attempt) {
            return Outcome::RegisterRefused(RegisterRefusal::OlderAttempt);
        }
        let current = last.map_or(Pos::ZERO, |(_, _, epoch)| epoch);
        if current != new.expect {
            return Outcome::RegisterRefused(RegisterRefusal::Conflict { current });
        }
        if known.is_none() {
            if user.devices.len() >= self.limits.devices_per_user as usize {
                return Outcome::RegisterRefused(RegisterRefusal::TooManyDevices);
            }
            let waits = !user.heir.owed.is_empty() || !user.heir.copies_owed.is_empty();
            let owed = waits || user.heir.has_gap() || !user.groups.is_empty();
            let inherits = user.devices.is_empty() && owed;
            let mut share = Share { cursor: epoch, ..Share::default() };
            if inherits {
                share = std::mem::take(&mut user.heir);
                share.copies_owed.retain(|pos| user.copies[pos].0 != new.device);
            }
            user.heir = Share::default();
            user.heir_gap_until = None;
            let ring = user.gone.remove(&new.device).map(|gone| gone.ring).unwrap_or_default();
            let (forget_at, ring_until) = (None, None);
            let last = (0, 0, epoch);
            let device =
                MDevice { share, last, ephemeral: false, node: None, lapsed: None, forget_at, ring_until, ring };
            user.devices.insert(new.device.clone(), device);
        }
        let device = user.devices.get_mut(&new.device).unwrap();
        if let Some(node) = device.node {
            effects.push(Seen::Superseded(node, device.last.2));
        }
        device.last = (new.instance, new.attempt, epoch);
        if let Some((instance, _, _)) = last.filter(|last| is_other(*last)) {
            replaced.insert(0, instance);
            replaced.truncate(4);
        }
        user.replaced.insert(new.device.clone(), replaced);
        device.ephemeral = new.ephemeral;
        device.node = Some(node);
        device.forget_at = None;
        device.ring_until = None;
        user.resume(&new.user, &new.device, effects);
        Outcome::Registered(epoch)
    }

    fn send(&mut self, pos: Pos, from: &UserId, id: &DeviceId, send: &Send, effects: &mut Vec<Seen>) -> Outcome {
        let (mid, len) = (send.mid, send.body.len() as u64);
        let outcome = |result, duplicate| match result {
            Ok(()) => Outcome::Stored { mid, duplicate },
            Err(refusal) => Outcome::SendRefused { mid, refusal, duplicate },
        };
        let ring = &self.users[from].devices[id].ring;
        if let Some((_, result)) = ring.iter().find(|(known, _)| *known == mid) {
            return outcome(*result, true);
        }
        let to = self.users.entry(send.to.clone()).or_default();
        let mut result = Err(SendRefusal::InboxFull);
        if to.make_space(&send.to, len, &self.limits, effects) {
            to.messages.insert(pos, MMessage { mid, len, stored_at: self.time_ms, acked: false });
            if to.devices.is_empty() {
                to.heir.owed.push(pos);
            }
            to.devices.values_mut().for_each(|device| device.share.owed.push(pos));
            if to.devices.values().any(|device| device.node.is_some()) {
                effects.push(Seen::Wake(send.to.clone()));
            }
            result = Ok(());
        }
        let now = self.time_ms;
        let user = self.users.get_mut(from).unwrap();
        if result.is_ok() && self.level >= COPIES_LEVEL && send.to != *from && user.devices.len() > 1 {
            user.copy(from, pos, (id, len, now), &self.limits, effects);
        }
        self.remember(from, id, mid, result);
        outcome(result, false)
    }

    fn refuse(&mut self, from: &UserId, id: &DeviceId, mid: MessageId) -> Outcome {
        let ring = &self.users[from].devices[id].ring;
        match ring.iter().find(|(known, _)| *known == mid).map(|(_, result)| *result) {
            Some(Ok(())) => Outcome::Stored { mid, duplicate: true },
            Some(Err(refusal)) => Outcome::SendRefused { mid, refusal, duplicate: true },
            None => {
                self.remember(from, id, mid, Err(SendRefusal::InboxFull));
                Outcome::SendRefused { mid, refusal: SendRefusal::InboxFull, duplicate: false }
            }
        }
    }

    pub fn remember(&mut self, from: &UserId, id: &DeviceId, mid: MessageId, result: Result<(), SendRefusal>) {
        let ring = &mut self.users.get_mut(from).unwrap().devices.get_mut(id).unwrap().ring;
        ring.push((mid, result));
        let excess = ring.len().saturating_sub(self.limits.inflight as usize);
        ring.drain(..excess);
    }

    fn ack(&mut self, (now, node): (Pos, NodeId), name: &UserId, id: &DeviceId, upto: Pos, effects: &mut Vec<Seen>) {
        let user = self.users.get_mut(name).unwrap();
        let copies = !user.copies_waiting().is_empty();
        let last = user.messages.keys().next_back().copied().unwrap_or_default();
        let share = &mut user.devices.get_mut(id).unwrap().share;
        let lost = share.scattered_gap.map_or(Pos::ZERO, |(seq, ..)| seq);
        let beside = !user.groups.is_empty() || copies;
        let upto = upto.min(if beside { now } else { last.max(lost) });
        let within_gap = share.gap.is_some_and(|(seq, ..)| seq > upto);
        if upto <= share.cursor || (within_gap && !beside && share.scattered_gap.is_none()) {
            return;
        }
        share.cursor = upto;
        share.scattered_gap = share.scattered_gap.filter(|(seq, ..)| *seq > upto);
        let passed_of_groups: Vec<_> = share.group_owed.extract_if(.., |(_, pos)| *pos <= upto).collect();
        let copies = share.copies_owed.extract_if(.., |pos| *pos <= upto).count() as u64;
        let mut passed = Vec::new();
        if !within_gap {
            share.gap = None;
            passed = share.owed.extract_if(.., |pos| *pos <= upto).collect();
        }
        let mut first = Vec::new();
        for pos in &passed {
            let message = user.messages.get_mut(pos).unwrap();
            if !std::mem::replace(&mut message.acked, true) {
                first.push(message.mid);
            }
        }
        for (group, pos) in &passed_of_groups {
            let message = self.groups.get_mut(group).unwrap().messages.get_mut(pos).unwrap();
            if message.from != *name && !std::mem::replace(&mut message.acked, true) {
                first.push(message.mid);
            }
        }
        let (direct, group) = (passed.len() as u64 + copies, passed_of_groups.len() as u64);
        if direct + group > 0 {
            effects.push(Seen::Acked(node, direct, group, first));
        }
    }

    fn lose_connection(&mut self, name: &UserId, id: &DeviceId) {
        let device = self.users.get_mut(name).unwrap().devices.get_mut(id).unwrap();
        let ttl = if device.ephemeral { self.limits.ephemeral_ttl_ms } else { self.limits.device_ttl_ms };
        device.node = None;
        device.forget_at = Some(self.time_ms + ttl);
        device.ring_until = Some(self.time_ms + self.limits.ring_ttl_ms);
    }

    fn node_up(&mut self, generation: Pos, up: &NodeUp, effects: &mut Vec<Seen>) {
        if let Some(known) = self.nodes.get(&up.node) {
            let copy = up.boot.count == known.boot.count && up.boot.nonce != known.boot.nonce;
            if copy || up.boot.count < known.boot.count {
                return effects.push(Seen::NodeRefused(up.node, up.boot.count));
            }
            if up.boot == known.boot && up.incarnation <= known.incarnation {
                return;
            }
        }
        self.end_generation(up.node, effects);
        let new = MNode { boot: up.boot, incarnation: up.incarnation, generation: Some(generation), next_seq: 1 };
        self.nodes.insert(up.node, new);
        effects.push(Seen::NodeUp(up.node, generation));
    }

    fn end_generation(&mut self, node: NodeId, effects: &mut Vec<Seen>) {
        let Some(generation) = self.nodes.get_mut(&node).and_then(|node| node.generation.take()) else { return };
        effects.push(Seen::NodeDown(node, generation));
        let devices = self.users.iter().flat_map(|(name, user)| user.devices.iter().map(move |of| (name, of)));
        let lost = devices.filter(|(_, (_, device))| device.node == Some(node));
        let lost: Vec<_> = lost.map(|(name, (id, _))| (name.clone(), id.clone())).collect();
        for (name, id) in lost {
            self.lose_connection(&name, &id);
        }
    }

    /// Does the one thing that is due longest.
    fn due(&mut self, pos: Pos, effects: &mut Vec<Seen>) -> bool {
        let at = self.forgetting(pos);
        let mut due = BTreeSet::new();
        for (name, user) in &mut self.users {
            let name = || name.clone();
            let direct = user.waiting().first().map(|pos| user.messages[pos].stored_at);
            let copy = user.copies_waiting().first().map(|pos| user.copies[pos].2);
            if let Some(stored_at) = direct.into_iter().chain(copy).min() {
                due.insert((stored_at + self.limits.message_ttl_ms, 0, name(), 0, None));
            }
            for (id, device) in &user.devices {
                device.ring_until.map(|at| due.insert((at, 1, name(), 0, Some(id.clone()))));
                device.forget_at.map(|at| due.insert((at, 1, name(), 2, Some(id.clone()))));
            }
            for (id, gone) in &user.gone {
                due.insert((gone.until, 1, name(), 1, Some(id.clone())));
            }
            user.heir_gap_until.map(|at| due.insert((at, 1, name(), 3, None)));
        }
        let due = due.pop_first().filter(|(at, ..)| *at <= self.time_ms);
        let group = self.due_of_group().filter(|(at, _)| *at <= self.time_ms);
        let (_, task, name, kind, id) = match (due, group) {
            (Some(due), group) if group.as_ref().is_none_or(|(at, _)| due.0 <= *at) => due,
            (_, Some((_, group))) => {
                self.expire_of_group(&group, effects);
                self.users.values_mut().for_each(MUser::tidy);
                self.users.retain(|_, user| user.remembered());
                return true;
            }
            _ => return false,
        };
        let user = self.users.get_mut(&name).unwrap();
        match (task, kind, id) {
            (0, ..) => self.expire(&name, effects),
            (_, 0, Some(id)) => {
                let device = user.devices.get_mut(&id).unwrap();
                device.ring.clear();
                device.ring_until = None;
            }
            (_, 1, Some(id)) => drop(user.gone.remove(&id)),
            (_, 2, Some(id)) => user.forget(&name, &id, at, &self.limits.clone(), effects),
            _ if user.waiting().is_empty() && user.copies_waiting().is_empty() && user.groups.is_empty() => {
                user.heir_gap_until = None;
                let cursor = user.messages.keys().next_back().copied().unwrap_or_default();
                user.heir = Share { cursor, ..Share::default() };
            }
            _ => user.heir_gap_until = Some(self.time_ms + self.limits.device_ttl_ms),
        }
        self.users.values_mut().for_each(MUser::tidy);
        self.users.retain(|_, user| user.remembered());
        true
    }

    fn expire(&mut self, name: &UserId, effects: &mut Vec<Seen>) {
        let user = self.users.get_mut(name).unwrap();
        let mut pairs = 0;
        let mut wake = false;
        let front = user.waiting().first().copied();
        let copy = user.copies_waiting().first().copied();
        let direct_at = front.map(|pos| user.messages[&pos].stored_at);
        let copy_at = copy.map(|pos| user.copies[&pos].2);
        if let Some(front) = front.filter(|_| copy_at.is_none_or(|copy_at| direct_at <= Some(copy_at))) {
            for device in user.devices.values_mut().filter(|device| device.lapsed.is_none()) {
                let lost = device.share.lose(front, GapReason::Expired);
                pairs += lost;
                wake |= lost > 0 && device.node.is_some();
            }
            if user.devices.is_empty() {
                pairs += user.heir.lose(front, GapReason::Expired);
            }
        } else {
            for node in user.drop_copy(copy.unwrap(), GapReason::Expired) {
                pairs += 1;
                wake |= node.is_some();
            }
        }
        if user.devices.is_empty() {
            user.heir_gap_until = Some(self.time_ms + self.limits.device_ttl_ms);
        }
        effects.push(Seen::Expired(pairs));
        if wake {
            effects.push(Seen::Wake(name.clone()));
        }
    }
}
