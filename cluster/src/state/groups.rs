//! What happens to groups: made, joined, left, written to, read, and at their limits.
//!
//! Invariants: who was a member at a message's position gets it or is told by a gap that it is lost,
//! and nobody else gets it (G1); all read it at that position (G3). A message to a group is never
//! refused for a member who does not read: those who lag lose the oldest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::command::{GroupAct, GroupOp, GroupSend};
use super::device::GapReason;
use super::effect::{Effect, GroupRefusal, Outcome, SendRefusal};
use super::group::Membership;
use super::held::Waiting;
use super::machine::State;
use super::message::{Body, Destination, Message, Told};
use crate::id::{DeviceId, GroupId, NodeId, Pos, UserId};
use crate::trace::{Mark, TraceContext};

/// Who has something to read after a batch; each is woken once.
#[derive(Default)]
pub(super) struct Wakes {
    pub users: BTreeSet<UserId>,
    pub groups: BTreeSet<GroupId>,
}

impl State {
    pub(super) fn wake(&self, wakes: Wakes, effects: &mut Vec<Effect>) {
        effects.extend(wakes.users.into_iter().map(Effect::Wake));
        let groups = wakes.groups.iter().filter_map(|name| self.store.group(name)).filter(|group| group.exists());
        effects.extend(groups.map(|group| Effect::WakeGroup(group.members.clone())));
    }

    pub(super) fn group_op(&mut self, pos: Pos, node: NodeId, op: &GroupOp, wakes: &mut Wakes) -> Outcome {
        let Some((by, _)) = self.session_of(node, op.epoch) else { return Outcome::Fenced };
        let result = match op.act {
            GroupAct::Create => self.create(pos, &by, &op.group),
            GroupAct::Join => self.join(pos, &by, &op.group),
            GroupAct::Leave => {
                // What the batch brought it so far, it has still to read.
                if self.leave(pos, &by, &op.group) && wakes.groups.contains(&op.group) {
                    wakes.users.insert(by);
                }
                Ok(())
            }
        };
        result.map_or_else(Outcome::GroupRefused, |()| Outcome::Done)
    }

    /// Its maker's repeat is no second group.
    fn create(&mut self, pos: Pos, by: &UserId, name: &GroupId) -> Result<(), GroupRefusal> {
        if let Some(group) = self.store.group(name).filter(|group| group.exists()) {
            let own = group.creator.as_ref() == Some(by) && group.members.contains_key(by);
            return if own { Ok(()) } else { Err(GroupRefusal::Exists) };
        }
        self.enter(pos, by, name)?;
        self.store.with_group(name, |_, group| group.creator = Some(by.clone()));
        Ok(())
    }

    fn join(&mut self, pos: Pos, by: &UserId, name: &GroupId) -> Result<(), GroupRefusal> {
        let group = self.store.group(name).filter(|group| group.exists()).ok_or(GroupRefusal::Unknown)?;
        if group.members.contains_key(by) {
            return Ok(());
        }
        if group.members.len() >= self.group_limits().members as usize {
            return Err(GroupRefusal::Full);
        }
        self.enter(pos, by, name)
    }

    /// The user is a member from this position on.
    fn enter(&mut self, pos: Pos, by: &UserId, name: &GroupId) -> Result<(), GroupRefusal> {
        let limit = self.group_limits().per_user as usize;
        let membership = Membership { group: name.clone(), from: pos, until: None };
        let devices = self.store.with(by, |_, user| {
            if user.groups.len() >= limit {
                return Err(GroupRefusal::TooMany);
            }
            let place = user.groups.partition_point(|other| *other < membership);
            user.groups.insert(place, membership);
            Ok(user.cursors().count() as u64)
        })?;
        self.store.with_group(name, |_, group| {
            Arc::make_mut(&mut group.members).insert(by.clone(), pos);
            group.holders += devices;
        });
        Ok(())
    }

    /// The user is a member up to this position; whether it was one.
    fn leave(&mut self, pos: Pos, by: &UserId, name: &GroupId) -> bool {
        if !self.is_member(name, by) {
            return false;
        }
        let devices = self.store.with(by, |_, user| {
            let open = user.groups.iter_mut().find(|of| of.group == *name && of.until.is_none());
            open.expect("a member knows its group").until = Some(pos);
            user.cursors().count() as u64
        });
        self.store.with_group(name, |_, group| {
            Arc::make_mut(&mut group.members).remove(by);
            group.leavers.insert(by.clone());
            group.holders -= devices;
        });
        self.tidy(by);
        true
    }

    pub(super) fn group_send(
        &mut self,
        pos: Pos,
        node: NodeId,
        (send, trace): (&GroupSend, Option<TraceContext>),
        effects: &mut Vec<Effect>,
        wakes: &mut Wakes,
    ) -> Outcome {
        let mid = send.mid;
        let Some((from, device)) = self.session_of(node, send.epoch) else { return Outcome::Fenced };
        if let Some(first) = self.store.user(&from).and_then(|user| user.sent(&device, &mid)) {
            return Outcome::of_send(mid, first, true);
        }
        let result = self.may_send(&from, &send.group);
        if result.is_ok() {
            let trace = Mark::new(trace);
            effects.extend(trace.get().cloned().map(Effect::Traced));
            self.store_in_group(pos, node, (&from, &device), (send, trace), effects);
            wakes.groups.insert(send.group.clone());
        }
        self.remember(&from, &device, mid, result);
        Outcome::of_send(mid, result, false)
    }

    fn may_send(&self, from: &UserId, name: &GroupId) -> Result<(), SendRefusal> {
        let group = self.store.group(name).filter(|group| group.exists()).ok_or(SendRefusal::UnknownGroup)?;
        if group.members.contains_key(from) { Ok(()) } else { Err(SendRefusal::NotMember) }
    }

    fn store_in_group(
        &mut self,
        pos: Pos,
        node: NodeId,
        (from, device): (&UserId, &DeviceId),
        (send, trace): (&GroupSend, Mark),
        effects: &mut Vec<Effect>,
    ) {
        self.make_space_in_group(&send.group, send.body.len() as u64, effects);
        let stored_at_ms = self.time_ms;
        self.store.with_group(&send.group, |name, group| {
            let message = Message {
                pos,
                mid: send.mid,
                from: from.clone(),
                device: device.clone(),
                to: Destination::Group(name.clone()),
                origin: node,
                ts_ms: send.ts_ms,
                stored_at_ms,
                body: Body::Memory(send.body.clone()),
                told: Told::default(),
                trace,
            };
            let held = group.holders;
            group.log.push(Waiting { message: Arc::new(message), held, acked: false });
        });
    }

    /// Lets the oldest messages go until one of so many bytes has space.
    fn make_space_in_group(&mut self, name: &GroupId, bytes: u64, effects: &mut Vec<Effect>) {
        let Some(group) = self.store.group(name) else { return };
        let dropped = group.log.surplus(bytes, &self.limits, self.feature_level);
        if dropped.is_empty() {
            return;
        }
        self.drop_from_group(name, &dropped, GapReason::InboxLimit, effects);
    }

    /// Drops messages that are too old, at most `budget`; returns how much work it was.
    pub(super) fn expire_of_group(&mut self, name: &GroupId, budget: usize, effects: &mut Vec<Effect>) -> usize {
        let Some(group) = self.store.group(name) else { return 0 };
        let work = group.members.len() + group.leavers.len();
        let dropped = group.log.oldest(budget);
        self.drop_from_group(name, &dropped, GapReason::Expired, effects);
        work + dropped.len()
    }

    /// Drops the first messages of a group. Whoever holds any of them is told by a gap.
    fn drop_from_group(&mut self, name: &GroupId, dropped: &[Pos], reason: GapReason, effects: &mut Vec<Effect>) {
        let Some(group) = self.store.group(name) else { return };
        let leavers: Vec<UserId> = group.leavers.iter().cloned().collect();
        let mut users: Vec<UserId> = group.members.keys().chain(&leavers).cloned().collect();
        users.sort_unstable();
        users.dedup();
        let mut lost = BTreeMap::new();
        for name_of_user in &users {
            if self.lose_of_group(name_of_user, name, dropped, reason, &mut lost, effects) {
                effects.push(Effect::Wake(name_of_user.clone()));
            }
        }
        self.store.with_group(name, |_, group| dropped.iter().for_each(|pos| group.log.remove(*pos)));
        if !lost.is_empty() {
            effects.push(Effect::GroupLost { reason, lost });
        }
        leavers.iter().for_each(|leaver| self.tidy(leaver));
    }

    /// The part of one user in [`State::drop_from_group`]; whether a live session has to be told.
    fn lose_of_group(
        &mut self,
        user: &UserId,
        name: &GroupId,
        dropped: &[Pos],
        reason: GapReason,
        lost: &mut BTreeMap<Option<NodeId>, u64>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        // Those that this membership lets a device at `pos` hold.
        let held = |of: &Membership, pos: Pos| {
            let (after, upto) = of.range(pos);
            let first = dropped.partition_point(|dropped| *dropped <= after);
            &dropped[first..dropped.partition_point(|dropped| *dropped <= upto).max(first)]
        };
        let Some(of) = self.store.user(user) else { return false };
        let mine: Vec<Membership> = of.groups.iter().filter(|of| of.group == *name).cloned().collect();
        let loses = |pos: Pos| mine.iter().any(|of| !held(of, pos).is_empty());
        if !of.cursors().any(|(_, cursor)| loses(cursor.pos)) {
            return false;
        }
        self.with(user, effects, |_, user, ctx| {
            let mut live = false;
            for (node, cursor) in user.cursors_mut() {
                for of in &mine {
                    let held = held(of, cursor.pos);
                    let Some(last) = held.last() else { continue };
                    cursor.lose_scattered(*last, held.len() as u64, reason);
                    let counts = node.filter(|_| reason == GapReason::InboxLimit);
                    *lost.entry(counts).or_default() += held.len() as u64;
                    live |= node.is_some();
                }
            }
            user.date_heir(ctx.now_ms, ctx.limits);
            live
        })
    }

    /// A device of this user has passed what is between the two positions; how many messages of groups
    /// that were. Those that it is the first to pass are added to `first`.
    pub(super) fn pass(
        &mut self,
        by: &UserId,
        groups: &[Membership],
        before: Pos,
        after: Pos,
        first: &mut Vec<Arc<Message>>,
    ) -> u64 {
        let mut count = 0;
        for of in groups {
            let (from, upto) = of.range(before);
            let range = (from, upto.min(after));
            if self.store.group(&of.group).is_none_or(|group| !group.log.has(range)) {
                continue;
            }
            self.store.with_group(&of.group, |_, group| {
                group.log.release(range, |waiting| {
                    count += 1;
                    if !waiting.acked && waiting.message.from != *by {
                        waiting.acked = true;
                        first.push(waiting.message.clone());
                    }
                    true
                });
            });
        }
        if groups.iter().any(|of| of.until.is_some()) {
            self.tidy(by);
        }
        count
    }

    /// The user's devices were at `before` and are at `after`, both sorted; none has moved. Who is gone
    /// holds nothing any more; who is new holds only what is still to come.
    pub(super) fn devices_changed(&mut self, name: &UserId, before: &[Pos], after: &[Pos]) {
        let mut gone = before.to_vec();
        for pos in after {
            if let Some(index) = gone.iter().position(|other| other == pos) {
                gone.remove(index);
            }
        }
        let groups = self.store.user(name).map(|user| user.groups.clone()).unwrap_or_default();
        for of in &groups {
            if of.until.is_none() && before.len() != after.len() {
                self.store.with_group(&of.group, |_, group| {
                    group.holders = group.holders + after.len() as u64 - before.len() as u64;
                });
            }
            for range in gone.iter().map(|pos| of.range(*pos)) {
                if self.store.group(&of.group).is_some_and(|group| group.log.has(range)) {
                    self.store.with_group(&of.group, |_, group| group.log.release(range, |_| true));
                }
            }
        }
        self.tidy(name);
    }

    /// Forgets a user's former memberships of which there is nothing left to read.
    fn tidy(&mut self, name: &UserId) {
        let Some(user) = self.store.user(name) else { return };
        let first = user.cursors().map(|(_, cursor)| cursor.pos).min().unwrap_or_default();
        let over = |of: &Membership| {
            let waits = self.store.group(&of.group).is_some_and(|group| group.log.has(of.range(first)));
            of.until.is_some() && !waits
        };
        let over: Vec<Membership> = user.groups.iter().filter(|of| over(of)).cloned().collect();
        for gone in over {
            let still = self.store.with(name, |_, user| {
                user.groups.retain(|of| *of != gone);
                user.groups.iter().any(|of| of.group == gone.group && of.until.is_some())
            });
            if !still {
                self.store.with_group(&gone.group, |_, group| group.leavers.remove(name));
            }
        }
    }
}
