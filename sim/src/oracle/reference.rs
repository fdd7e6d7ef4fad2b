//! A replica of our own: the committed log, applied once and in order by the production state
//! machine, without nodes, disks or checkpoints.
//!
//! Invariant: every node's replica equals it at the same entry, however that node came there: by
//! applying, after a restart from a checkpoint, or by a checkpoint of another node.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use cluster::id::{Epoch, MessageId, NodeId, UserId};
use cluster::state::{
    Batch, BatchRefusal, COPIES_LEVEL, Command, ENDING_LEVEL, Effect, FirstAck, GapReason, GroupAct, Op, Outcome,
    SendRefusal, State,
};

use super::facts::{Counted, Facts, Generation, Grouped, Pause, Present, Registered, Revoked, Stored, Timed};
use super::lives::Devices;
use super::presence::Live;
use super::rolls::Rolls;
use super::sessions::Sessions;
use super::{Committed, Violation, safety};
use crate::coverage;
use crate::ledger::{Device, Name};
use crate::time;

/// Clocks go wrong by less, in per cent.
const FASTEST_PERCENT: u64 = 3;
/// Hashes of so many entries back are remembered.
const REMEMBERED: usize = 1_000;

/// See the module.
#[derive(Default)]
pub struct Reference {
    state: State,
    /// Committed and not applied.
    waiting: VecDeque<Committed>,
    /// Index of the entry applied last, commands or not.
    applied: u64,
    hashes: BTreeMap<u64, ([u8; 32], String)>,
    facts: Facts,
    /// Where each epoch is in the facts, as long as its session may live.
    sessions: HashMap<u64, usize>,
    last_nodes: HashMap<String, u64>,
    /// The sessions that the log alone says to live.
    account: Sessions,
    /// All nodes know that a revocation ends sessions.
    revocations_end: bool,
    /// The devices that the log alone says to be known.
    devices: Devices,
    broken: Vec<Violation>,
    /// Who is in which group, by what was done with it and nothing else.
    rolls: Rolls,
    /// Client instances' attempts that were registered.
    attempts: HashSet<(u64, u64)>,
}

impl Reference {
    /// Takes in what was committed.
    pub fn committed(&mut self, entries: Vec<Committed>) {
        self.waiting.extend(entries);
    }

    /// What entries did that they may not have done, since this was asked last.
    pub fn take_broken(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.broken)
    }

    /// Index of the entry applied last.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// What the log says, as far as it was applied.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether `node` was already compared at this entry.
    pub fn has_seen(&self, node: &str, index: u64) -> bool {
        self.last_nodes.get(node) == Some(&index)
    }

    /// Compares a replica. Replicas must come in the order of their entries, so that none is passed.
    pub fn compare(&mut self, node: &str, index: u64, hash: [u8; 32]) -> Option<Violation> {
        self.last_nodes.insert(node.to_owned(), index);
        if self.applied < index {
            self.advance(index);
            if self.applied == index {
                self.hashes.insert(index, (self.state.hash(), "the log's replay".to_owned()));
            }
        }
        let (known, by) = self.hashes.entry(index).or_insert_with(|| (hash, node.to_owned()));
        let differ = *known != hash;
        let text = format!("replicas: {node} and {by} differ at entry {index}");
        while self.hashes.len() > REMEMBERED {
            self.hashes.pop_first();
        }
        differ.then(|| safety(text).at(time::now()))
    }

    /// Applies all up to this entry, as far as it is committed.
    pub fn advance(&mut self, upto: u64) {
        while self.waiting.front().is_some_and(|entry| entry.index <= upto) {
            let Committed { index, author, at, command } = self.waiting.pop_front().expect("it was seen");
            self.applied = index;
            let Some(bytes) = command else {
                self.state.note_applied(index);
                continue;
            };
            let command = Command::decode(&bytes).expect("a command of this build");
            let mut effects = Vec::new();
            self.state.apply(index, &command, &mut effects);
            self.broken.extend(self.account.entry(index, &command, &effects));
            self.devices.entry(index, &command, &effects, &mut self.facts.lives);
            self.check_time(at);
            match &command {
                Command::SetGroupLimits(limits) => self.rolls.limits = limits.clone(),
                Command::SetFeatureLevel(level) => {
                    if !self.facts.stored.is_empty() {
                        coverage::reached("the feature level was raised under traffic");
                    }
                    if *level >= COPIES_LEVEL {
                        self.facts.copied_since.get_or_insert(at);
                    }
                    self.revocations_end |= *level >= ENDING_LEVEL;
                }
                _ => {}
            }
            self.note_generations(at, &effects);
            self.note_presence(index, at, &command);
            self.note_breaker(index, at, &effects);
            self.note(index, author, &command, effects);
        }
        let at = |epoch| self.state.session(cluster::id::Pos(epoch)).map(|(_, _, node)| node);
        self.broken.extend(self.account.compare(self.state.totals().sessions, at));
    }

    /// Replicated time only goes as leaders' monotonic clocks do: whatever is due by it, such as a
    /// message that grows too old, may be late and never early.
    fn check_time(&mut self, at: u64) {
        let (time_ms, now_ms) = (self.state.time_ms(), at / 1_000_000);
        if time_ms > now_ms + now_ms * FASTEST_PERCENT / 100 {
            let text = format!("G1: replicated time is at {time_ms} ms after {now_ms} ms: messages expire too early");
            self.broken.push(safety(text).at(at));
        }
    }

    /// The live sessions.
    pub fn live(&mut self) -> Vec<Live> {
        let (state, facts) = (&self.state, &self.facts);
        self.sessions.retain(|&epoch, _| state.session(cluster::id::Pos(epoch)).is_some());
        let mut live: Vec<_> = self
            .sessions
            .values()
            .map(|&at| {
                let Registered { epoch, device, instance, node } = facts.registered[at].clone();
                Live { epoch, device, instance, node }
            })
            .collect();
        live.sort_by_key(|live| live.epoch);
        live
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
                    let last = self.facts.stored.last().map_or(0, |stored| super::facts::index(stored.pos));
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

    fn note(&mut self, index: u64, author: NodeId, command: &Command, effects: Vec<Effect>) {
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
                Effect::Expired { count } => self.facts.expired.push(Counted { index, node: author, count }),
                _ => {}
            }
        }
    }

    fn note_batch(&mut self, index: u64, node: NodeId, batch: &Batch, outcomes: &[Outcome]) {
        let (mut refused, mut duplicates) = (0, 0);
        for (offset, (op, outcome)) in batch.ops.iter().zip(outcomes).enumerate() {
            let pos = cluster::id::Pos::new(index, offset).0;
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
                    self.broken.extend(self.rolls.done(&group, &user, left));
                    self.facts.grouped.push(Grouped { pos, group, user, left });
                }
                (Op::Group(op), Outcome::GroupRefused(refusal)) => {
                    let session = self.sessions.get(&op.epoch.0).expect("who asked had a session");
                    let user = self.facts.registered[*session].device.user.clone();
                    self.broken.extend(self.rolls.refused(&format!("#{}", op.group), &user, *refusal));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, command: Option<Command>) -> Committed {
        Committed { index, author: NodeId(1), at: 0, command: command.map(|command| command.encode()) }
    }

    fn tick(index: u64, advance_ms: u64) -> Committed {
        entry(index, Some(Command::Tick { advance_ms }))
    }

    fn hash_at(entries: &[Committed]) -> [u8; 32] {
        let mut other = Reference::default();
        other.committed(entries.to_vec());
        other.advance(u64::MAX);
        other.state.hash()
    }

    #[test]
    fn a_replica_that_differs() {
        let log = [entry(0, None), tick(1, 5), tick(2, 7)];
        let mut reference = Reference::default();
        reference.committed(log.to_vec());
        assert!(reference.compare("n0", 1, hash_at(&log[..2])).is_none());
        assert!(reference.compare("n0", 2, hash_at(&log)).is_none());
        assert!(reference.compare("n1", 1, hash_at(&log[..2])).is_none());
        let broken = reference.compare("n2", 2, hash_at(&[entry(0, None), tick(1, 6), tick(2, 7)]));
        assert!(broken.is_some_and(|broken| broken.text.contains("n2 and the log's replay differ at entry 2")));
    }

    #[test]
    fn time_that_runs_ahead() {
        let mut reference = Reference::default();
        reference.committed(vec![tick(1, 0)]);
        reference.advance(u64::MAX);
        assert!(reference.take_broken().is_empty());
        reference.committed(vec![tick(2, 7)]);
        reference.advance(u64::MAX);
        assert!(reference.take_broken()[0].text.contains("replicated time is at 7 ms after 0 ms"));
    }
}
