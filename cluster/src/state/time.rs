//! Replicated time, and what is due by it.
//!
//! Invariant: only ticks move it, each by a bounded step, so no node's clock can make it jump; and
//! one tick does a bounded amount of work, strictly in the order of when it was due. The rest waits for the next.

use super::device::{Cursor, Heir, NEVER};
use super::effect::Effect;
use super::machine::State;
use super::ring::Ring;
use super::user::{Context, Forgetting, User};
use super::{Command, Limits};
use crate::id::{DeviceId, GroupId, Pos, UserId};
use crate::observer::Forgotten;

/// Most pieces of due work in one tick (messages dropped, devices forgotten, rings dropped, users
/// looked at), so that no entry takes long to apply.
const MAX_WORK: usize = 1000;

impl State {
    pub(super) fn tick(&mut self, advance_ms: u64, effects: &mut Vec<Effect>) {
        self.time_ms = self.time_ms.saturating_add(advance_ms.min(Command::MAX_TICK_MS));
        self.revocations.forget(self.time_ms);
        let at = Pos::new(self.applied, 0);
        let mut budget = MAX_WORK;
        while budget > 0
            && let Some(due) = self.next_due()
        {
            let done = match due {
                Due::Expire(name) => self.with(&name, effects, |name, user, ctx| user.expire(name, budget, ctx)),
                Due::Check(name) => self.with(&name, effects, |name, user, ctx| user.check(name, at, budget, ctx)),
                Due::ExpireOfGroup(group) => self.expire_of_group(&group, budget, effects),
            };
            budget = budget.saturating_sub(done.max(1));
        }
    }

    /// What is due longest, and whose it is.
    fn next_due(&self) -> Option<Due> {
        let ttl_ms = self.limits.message_ttl_ms;
        let expire = self.store.oldest().map(|(ms, name)| (ms.saturating_add(ttl_ms), Due::Expire(name.clone())));
        let check = self.store.next_check().map(|(ms, name)| (*ms, Due::Check(name.clone())));
        let group = self.store.oldest_of_groups();
        let group = group.map(|(ms, group)| (ms.saturating_add(ttl_ms), Due::ExpireOfGroup(group.clone())));
        let (due_ms, due) = expire.into_iter().chain(check).chain(group).min()?;
        (due_ms <= self.time_ms).then_some(due)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Expire(UserId),
    Check(UserId),
    ExpireOfGroup(GroupId),
}

/// A deadline of a user.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    DropRing(DeviceId),
    DropRetired(DeviceId),
    Forget(DeviceId),
    DropHeirGap,
}

impl User {
    /// All deadlines, ms, in no order.
    fn deadlines(&self) -> impl Iterator<Item = (u64, Deadline)> {
        let rings = self.devices.iter().map(|device| (device.ring_ms, Deadline::DropRing(device.id.clone())));
        let devices = self.devices.iter().map(|device| (device.forget_ms, Deadline::Forget(device.id.clone())));
        let retired = self.retired.iter().map(|gone| (gone.drop_ms, Deadline::DropRetired(gone.id.clone())));
        let heir = self.heir.iter().map(|heir| (heir.forget_ms, Deadline::DropHeirGap));
        rings.chain(devices).chain(retired).chain(heir).filter(|(due_ms, _)| *due_ms != NEVER)
    }

    /// Does what is due at `check_ms`, by the entry at `at`, at most `budget` pieces; returns how many, and makes `check_ms` exact.
    fn check(&mut self, name: &UserId, at: Pos, budget: usize, ctx: &mut Context) -> usize {
        // If nothing is due at the bound, something else may be first: then it only becomes exact.
        let due = self.deadlines().filter(|(due_ms, _)| *due_ms == self.check_ms);
        let mut due: Vec<_> = due.map(|(_, deadline)| deadline).collect();
        due.sort_unstable();
        due.truncate(budget);
        let done = due.len();
        for deadline in due {
            match deadline {
                Deadline::DropRing(id) => self.drop_ring(&id),
                Deadline::DropRetired(id) => self.retired.retain(|retired| retired.id != id),
                Deadline::Forget(id) => {
                    self.forget(name, &id, Forgetting { why: Forgotten::Age, by: None, at }, ctx);
                }
                Deadline::DropHeirGap => self.drop_heir_gap(ctx.limits, ctx.now_ms),
            }
        }
        self.check_ms = self.deadlines().map(|(due_ms, _)| due_ms).min().unwrap_or(NEVER);
        done
    }

    /// Drops the ring of a device that is away, unless it was forgotten just before.
    fn drop_ring(&mut self, id: &DeviceId) {
        if let Some(device) = self.devices.iter_mut().find(|device| device.id == *id) {
            device.ring = Ring::default();
            device.ring_ms = NEVER;
        }
    }

    /// Nobody came for the inbox in all this time: what was lost from it is forgotten, unless
    /// messages wait still.
    fn drop_heir_gap(&mut self, limits: &Limits, now_ms: u64) {
        if self.may_be_owed() {
            return self.date_heir(now_ms, limits);
        }
        if let Some(heir) = &mut self.heir {
            let cursor = Cursor { pos: self.inbox.last(), passed: self.inbox.next(), ..Cursor::default() };
            *heir = Heir { cursor, forget_ms: NEVER };
        }
    }
}
