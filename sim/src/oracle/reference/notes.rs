//! What the facts are of: each applied entry, and what the state machine answers to it.

use cluster::id::{Epoch, MessageId, NodeId, Pos, UserId};
use cluster::state::{
    Batch, BatchRefusal, COPIES_LEVEL, Command, ENDING_LEVEL, Effect, FirstAck, GapReason, GroupAct, OUTCASTS_LEVEL,
    Op, Outcome, SendRefusal,
};

use super::Reference;
use crate::coverage;
use crate::ledger::{Device, Name};
use crate::oracle::facts::{
    self, Counted, Generation, Grouped, Level, Pause, Present, Registered, Revoked, Stored, Timed,
};

impl Reference {
    /// Takes down what an entry that was just applied says; it was committed at `at`.
    pub(super) fn note_entry(&mut self, index: u64, author: NodeId, at: u64, command: &Command, effects: Vec<Effect>) {
        self.note_settings(index, at, command);
        self.note_generations(at, &effects);
        self.note_presence(index, at, command);
        self.note_breaker(index, at, &effects);
        self.note_effects(index, author, command, effects);
        self.note_level(index);
    }

    fn note_settings(&mut self, index: u64, at: u64, command: &Command) {
        match command {
            Command::SetGroupLimits(limits) => self.groups.limits = limits.clone(),
            Command::SetFeatureLevel(level) => {
                if !self.facts.stored.is_empty() {
                    coverage::reached("the feature level was raised under traffic");
                }
                if *level >= COPIES_LEVEL {
                    self.facts.copied_since.get_or_insert(at);
                }
                if *level >= OUTCASTS_LEVEL {
                    self.facts.outcasts_from.get_or_insert(index);
                }
                self.revocations_end |= *level >= ENDING_LEVEL;
            }
            _ => {}
        }
    }

    fn note_generations(&mut self, at: u64, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::NodeUp { node, .. } => {
                    self.facts.generations.push(Generation { node: *node, began_at: at, ended_at: None });
                }
                Effect::NodeDown { node, .. } => {
                    let last = self.facts.generations.iter_mut().rfind(|last| last.node == *node);
                    last.expect("it began").ended_at = Some(at);
                }
                _ => {}
            }
        }
    }

    /// By the sessions of the state after each command that may begin or end some, whatever effects say of it.
    fn note_presence(&mut self, index: u64, at: u64, command: &Command) {
        let users: Vec<UserId> = match command {
            Command::Batch(batch) => batch.ops.iter().filter_map(|op| self.touched(op)).collect(),
            Command::NodeUp(_) | Command::NodeDown { .. } | Command::NodeForgotten { .. } => {
                let there = self.facts.presence.iter().filter(|(_, of)| of.last().is_some_and(|last| last.devices > 0));
                there.map(|(user, _)| UserId::new(user).expect("a user's name")).collect()
            }
            Command::Revoke { user, .. } => vec![user.clone()],
            _ => return,
        };
        for user in users {
            let devices = u32::try_from(self.state.sessions_of(&user).count()).expect("devices are few");
            let presence = self.facts.presence.entry(user.as_str().to_owned()).or_default();
            if presence.last().map_or(0, |present| present.devices) != devices {
                presence.push(Present { index, at, devices });
            }
        }
    }

    fn note_breaker(&mut self, index: u64, at: u64, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Breaker { open: true } => self.facts.pauses.push(Pause { opened: index, closed: None }),
                Effect::Breaker { open: false } => {
                    let pause = self.facts.pauses.last_mut().expect("it was opened");
                    pause.closed = Some((index, at));
                    let last = self.facts.stored.last().map_or(0, |stored| facts::index(stored.pos));
                    if last > pause.opened {
                        coverage::reached("the breaker was closed on what it had held back");
                    }
                }
                _ => {}
            }
        }
    }

    /// Whose session the operation may begin or end.
    fn touched(&self, op: &Op) -> Option<UserId> {
        match op {
            Op::Register(register) => Some(register.user.clone()),
            Op::Forget { user, .. } => Some(user.clone()),
            Op::Close { epoch, .. } | Op::ForgetBy { epoch, .. } => {
                let user = &self.facts.registered[*self.sessions.get(&epoch.0)?].device.user;
                Some(UserId::new(user).expect("a user's name"))
            }
            _ => None,
        }
    }

    fn note_level(&mut self, index: u64) {
        let totals = self.state.totals();
        let level = Level { index, messages: totals.inbox_messages, sessions: totals.sessions };
        let before = self.facts.levels.last();
        if before.is_none_or(|before| (before.messages, before.sessions) != (level.messages, level.sessions)) {
            self.facts.levels.push(level);
        }
    }

    fn note_effects(&mut self, index: u64, author: NodeId, command: &Command, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::BatchApplied { node, outcomes, .. } => {
                    if let Command::Batch(batch) = command {
                        self.note_batch(index, node, batch, &outcomes);
                    }
                }
                Effect::Acked { node, count, group, first, .. } => {
                    self.facts.acked.push(Counted { index, node, count: count + group });
                    let timed =
                        |ack: &FirstAck| Timed { sent: ack.message.pos.index(), index, node: ack.message.origin };
                    self.facts.timed.extend(first.iter().map(timed));
                }
                Effect::GroupLost { reason, lost } => {
                    coverage::reached("a group lost messages for some of its members");
                    let facts = &mut self.facts;
                    let counted = match reason {
                        GapReason::InboxLimit => &mut facts.group_lapsed,
                        GapReason::Expired => &mut facts.group_expired,
                    };
                    let lost = lost.into_iter();
                    counted.extend(lost.map(|(node, count)| Counted { index, node: node.unwrap_or(author), count }));
                }
                Effect::BatchRefused { refusal, .. } => match refusal {
                    BatchRefusal::Fenced => coverage::reached("a node's batch was fenced"),
                    BatchRefusal::Repeated => coverage::reached("a node's batch was proposed twice"),
                    BatchRefusal::Gap { .. } => {}
                },
                Effect::NodeUp { node, .. } => {
                    self.facts.ups.push(Counted { index, node, count: 1 });
                }
                Effect::Lapsed { lost, node, .. } => {
                    self.facts.lapsed.push(Counted { index, node: node.unwrap_or(author), count: lost });
                }
                Effect::Revoked { user, before_ms } => {
                    coverage::reached("tokens were revoked");
                    let (user, ends) = (user.as_str().to_owned(), self.revocations_end);
                    self.facts.revoked.push(Revoked { index, user, before_ms, ends });
                }
                Effect::Expired { count, .. } => self.facts.expired.push(Counted { index, node: author, count }),
                _ => {}
            }
        }
    }

    fn note_batch(&mut self, index: u64, node: NodeId, batch: &Batch, outcomes: &[Outcome]) {
        let (mut refused, mut duplicates) = (0, 0);
        for (offset, (op, outcome)) in batch.ops.iter().zip(outcomes).enumerate() {
            let pos = Pos::new(index, offset).0;
            self.note_handled(pos, op, outcome);
            match (op, outcome) {
                (Op::Register(register), Outcome::Registered(epoch)) => {
                    self.sessions.insert(epoch.0, self.facts.registered.len());
                    let device = Device::new(register.user.as_str(), register.device.as_str());
                    let instance = register.instance;
                    if !self.attempts.insert((instance, register.attempt)) {
                        coverage::reached("a session was registered again by its node");
                    }
                    self.facts.registered.push(Registered { epoch: epoch.0, device, instance, node });
                }
                (Op::Send(send) | Op::TracedSend(send, _), Outcome::Stored { duplicate: false, .. }) => {
                    let from = &self.registered(send.epoch).device;
                    let to_others = self.facts.copied_since.is_some() && from.user != send.to.as_str();
                    let copied_from = to_others.then(|| from.clone());
                    self.note_stored(pos, (send.epoch, send.mid), &send.body, send.to.to_string(), copied_from);
                }
                (Op::GroupSend(send) | Op::TracedGroupSend(send, _), Outcome::Stored { duplicate: false, .. }) => {
                    coverage::reached("a message to a group was stored");
                    self.note_stored(pos, (send.epoch, send.mid), &send.body, format!("#{}", send.group), None);
                }
                (Op::Group(op), Outcome::Done) => {
                    let (group, left) = (format!("#{}", op.group), op.act == GroupAct::Leave);
                    if left {
                        coverage::reached("a user left a group");
                    }
                    let session = self.sessions.get(&op.epoch.0).expect("who did it had a session");
                    let user = self.facts.registered[*session].device.user.clone();
                    self.broken.extend(self.groups.done(&group, &user, left));
                    self.facts.grouped.push(Grouped { pos, group, user, left });
                }
                (Op::Group(op), Outcome::GroupRefused(refusal)) => {
                    let session = self.sessions.get(&op.epoch.0).expect("who asked had a session");
                    let user = self.facts.registered[*session].device.user.clone();
                    self.broken.extend(self.groups.refused(&format!("#{}", op.group), &user, *refusal));
                    self.facts.not_joined.insert((user, op.group.to_string(), *refusal));
                }
                (_, Outcome::SendRefused { refusal: SendRefusal::InboxFull, duplicate: false, .. }) => refused += 1,
                (_, Outcome::Stored { duplicate: true, .. } | Outcome::SendRefused { duplicate: true, .. }) => {
                    duplicates += 1;
                }
                _ => {}
            }
        }
        self.note_counts(index, node, refused, duplicates);
    }

    /// A send that its device's ring remembers from here on.
    fn note_handled(&mut self, pos: u64, op: &Op, outcome: &Outcome) {
        let epoch = match op {
            Op::Send(send) | Op::TracedSend(send, _) => send.epoch,
            Op::GroupSend(send) | Op::TracedGroupSend(send, _) => send.epoch,
            _ => return,
        };
        let fresh =
            matches!(outcome, Outcome::Stored { duplicate: false, .. } | Outcome::SendRefused { duplicate: false, .. });
        if let Some(&at) = self.sessions.get(&epoch.0).filter(|_| fresh) {
            let device = self.facts.registered[at].device.clone();
            self.facts.handled.entry(device).or_default().push(pos);
        }
    }

    /// The registration of a session that lived when it had its way.
    fn registered(&self, epoch: Epoch) -> &Registered {
        &self.facts.registered[*self.sessions.get(&epoch.0).expect("who had its way had a session")]
    }

    fn note_stored(
        &mut self,
        pos: u64,
        (epoch, mid): (Epoch, MessageId),
        body: &[u8],
        to: String,
        copied_from: Option<Device>,
    ) {
        let name = std::str::from_utf8(body).ok().and_then(Name::of_body);
        if self.state.breaker_open() {
            coverage::reached("a message was stored while the breaker was open");
        }
        let &Registered { instance, node, .. } = self.registered(epoch);
        self.facts.stored.push(Stored { pos, mid, name, to, instance, node, copied_from });
    }

    fn note_counts(&mut self, index: u64, node: NodeId, refused: u64, duplicates: u64) {
        if refused > 0 {
            coverage::reached("a send was refused: inbox full");
            self.facts.refused.push(Counted { index, node, count: refused });
        }
        if duplicates > 0 {
            coverage::reached("a repeated send was recognised");
            self.facts.duplicates.push(Counted { index, node, count: duplicates });
        }
    }
}
