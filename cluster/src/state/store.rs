//! All users and groups, and what is derived from them: totals, and who has something due.
//!
//! Invariant: users change only through [`Store::with`] and groups through [`Store::with_group`], which keep the derived parts equal to what
//! a scan of all users would give. So they need not be in a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::device::NEVER;
use super::group::Group;
use super::held::Held;
use super::shard::{Shard, shard_of};
use super::user::User;
use crate::id::{GroupId, UserId};

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Users that are remembered: with a device, a message, or a dedup ring.
    pub users: u64,
    /// Those without a device; messages wait for them, or a dedup ring.
    pub absent_users: u64,
    /// Known devices, with a session or not.
    pub devices: u64,
    /// Forgotten devices whose dedup ring is still kept.
    pub retired_devices: u64,
    /// Live sessions.
    pub sessions: u64,
    /// Users some of whose tokens are revoked.
    pub revocations: u64,
    /// Groups that are remembered: with a member, or a message.
    pub groups: u64,
    /// Pairs of a group and a member.
    pub memberships: u64,
    /// Messages that wait; one to a group counts once, and so does what waits for a sender's other devices.
    pub inbox_messages: u64,
    /// Bytes of their bodies.
    pub inbox_bytes: u64,
    /// Bytes of those bodies that this replica has in memory; differs between replicas.
    pub memory_bytes: u64,
}

impl Totals {
    fn of(user: &User) -> Self {
        Self {
            users: 1,
            absent_users: u64::from(user.devices.is_empty()),
            devices: user.devices.len() as u64,
            retired_devices: user.retired.len() as u64,
            sessions: 0,
            revocations: 0,
            groups: 0,
            memberships: 0,
            inbox_messages: user.inbox.len() as u64 + user.held_copies().map_or(0, |copies| copies.len() as u64),
            inbox_bytes: user.inbox.bytes() + user.held_copies().map_or(0, Held::bytes),
            memory_bytes: user.memory_bytes(),
        }
    }

    fn of_group(group: &Group) -> Self {
        Self {
            groups: 1,
            memberships: group.members.len() as u64,
            inbox_messages: group.log.len() as u64,
            inbox_bytes: group.log.bytes(),
            memory_bytes: group.log.memory_bytes(),
            ..Self::default()
        }
    }

    fn replace(&mut self, before: Self, after: Self) {
        self.users = self.users - before.users + after.users;
        self.absent_users = self.absent_users - before.absent_users + after.absent_users;
        self.devices = self.devices - before.devices + after.devices;
        self.retired_devices = self.retired_devices - before.retired_devices + after.retired_devices;
        self.groups = self.groups - before.groups + after.groups;
        self.memberships = self.memberships - before.memberships + after.memberships;
        self.inbox_messages = self.inbox_messages - before.inbox_messages + after.inbox_messages;
        self.inbox_bytes = self.inbox_bytes - before.inbox_bytes + after.inbox_bytes;
        self.memory_bytes = self.memory_bytes - before.memory_bytes + after.memory_bytes;
    }
}

/// Users, or groups, in the order of when they have something due.
type Agenda<T> = BTreeSet<(u64, T)>;

fn reschedule<T: Ord + Clone>(agenda: &mut Agenda<T>, name: &T, before: u64, after: u64) {
    if before != after {
        if before != NEVER {
            agenda.remove(&(before, name.clone()));
        }
        if after != NEVER {
            agenda.insert((after, name.clone()));
        }
    }
}

fn count_absent((all, by): (&mut u64, &mut BTreeMap<UserId, u64>), before: Option<&UserId>, after: Option<&UserId>) {
    if before == after {
        return;
    }
    if let Some(sender) = before {
        *all -= 1;
        let of_one = by.get_mut(sender).expect("it was counted");
        *of_one -= 1;
        if *of_one == 0 {
            by.remove(sender);
        }
    }
    if let Some(sender) = after {
        *all += 1;
        *by.entry(sender.clone()).or_default() += 1;
    }
}

#[derive(Debug)]
pub(super) struct Store {
    shards: Vec<Arc<Shard>>,
    /// Shards changed since they were last frozen.
    dirty: Vec<bool>,
    /// By [`User::oldest_ms`].
    oldest: Agenda<UserId>,
    /// By [`User::check_ms`].
    checks: Agenda<UserId>,
    /// By [`Group::oldest_ms`].
    oldest_of_groups: Agenda<GroupId>,
    totals: Totals,
    /// How many absent users there are for whom something waits: all, and by [`User::awaited_by`].
    absent: u64,
    absent_by: BTreeMap<UserId, u64>,
}

impl Store {
    pub fn new(shards: usize) -> Self {
        Self {
            shards: vec![Arc::default(); shards],
            dirty: vec![false; shards],
            oldest: Agenda::new(),
            checks: Agenda::new(),
            oldest_of_groups: Agenda::new(),
            totals: Totals::default(),
            absent: 0,
            absent_by: BTreeMap::new(),
        }
    }

    /// Takes in a shard as it was frozen.
    ///
    /// # Errors
    /// When it is none of these shards, came before, or holds a user of another one.
    pub fn insert(&mut self, id: usize, shard: Shard) -> Result<(), &'static str> {
        let place = self.shards.get(id).ok_or("there is no such shard")?;
        if !place.users.is_empty() || !place.groups.is_empty() {
            return Err("a shard came twice");
        }
        for (name, user) in &shard.users {
            if shard_of(name.as_str(), self.shards.len()) != id {
                return Err("a user is in a foreign shard");
            }
            self.totals.replace(Totals::default(), Totals::of(user));
            count_absent((&mut self.absent, &mut self.absent_by), None, user.awaited_by());
            reschedule(&mut self.oldest, name, NEVER, user.oldest_ms);
            reschedule(&mut self.checks, name, NEVER, user.check_ms);
        }
        for (name, group) in &shard.groups {
            if shard_of(name.as_str(), self.shards.len()) != id {
                return Err("a group is in a foreign shard");
            }
            self.totals.replace(Totals::default(), Totals::of_group(group));
            reschedule(&mut self.oldest_of_groups, name, NEVER, group.log.oldest_ms());
        }
        self.shards[id] = Arc::new(shard);
        Ok(())
    }

    pub fn user(&self, name: &UserId) -> Option<&User> {
        self.shards[shard_of(name.as_str(), self.shards.len())].users.get(name).map(Arc::as_ref)
    }

    pub fn group(&self, name: &GroupId) -> Option<&Group> {
        self.shards[shard_of(name.as_str(), self.shards.len())].groups.get(name).map(Arc::as_ref)
    }

    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Users without a device for whom something waits.
    pub fn absent(&self) -> u64 {
        self.absent
    }

    /// Those of them for whom what waits longest is of this sender.
    pub fn absent_by(&self, sender: &UserId) -> u64 {
        self.absent_by.get(sender).copied().unwrap_or(0)
    }

    /// Who may have the oldest message, and since when, ms.
    pub fn oldest(&self) -> Option<&(u64, UserId)> {
        self.oldest.first()
    }

    /// Who may have the next deadline, and when, ms.
    pub fn next_check(&self) -> Option<&(u64, UserId)> {
        self.checks.first()
    }

    /// Which group has the oldest message, and since when, ms.
    pub fn oldest_of_groups(&self) -> Option<&(u64, GroupId)> {
        self.oldest_of_groups.first()
    }

    /// Whether the same work is due to the same users at the same times.
    pub fn same_agenda(&self, other: &Self) -> bool {
        let groups = self.oldest_of_groups == other.oldest_of_groups;
        let absent = self.absent == other.absent && self.absent_by == other.absent_by;
        self.oldest == other.oldest && self.checks == other.checks && groups && absent
    }

    /// Changes a user, who begins to exist by this and ends when nothing needs to be remembered.
    pub fn with<R>(&mut self, name: &UserId, change: impl FnOnce(&UserId, &mut User) -> R) -> R {
        let id = shard_of(name.as_str(), self.shards.len());
        self.dirty[id] = true;
        let shard = Arc::make_mut(&mut self.shards[id]);
        let entry = shard.users.entry(name.clone());
        // The name as it is in the map, so that all refer to one copy of it.
        let name = entry.key().clone();
        let mut before = Totals::default();
        let mut after = Totals::default();
        let user = entry.and_modify(|user| before = Totals::of(user)).or_default();
        let user = Arc::make_mut(user);
        let (oldest_ms, check_ms, awaited_by) = (user.oldest_ms, user.check_ms, user.awaited_by().cloned());
        let result = change(&name, user);
        count_absent((&mut self.absent, &mut self.absent_by), awaited_by.as_ref(), user.awaited_by());
        if user.is_vacant() {
            reschedule(&mut self.oldest, &name, oldest_ms, NEVER);
            reschedule(&mut self.checks, &name, check_ms, NEVER);
            shard.users.remove(&name);
        } else {
            after = Totals::of(user);
            reschedule(&mut self.oldest, &name, oldest_ms, user.oldest_ms);
            reschedule(&mut self.checks, &name, check_ms, user.check_ms);
        }
        self.totals.replace(before, after);
        result
    }

    /// Changes a group, which begins to exist by this and ends when nothing needs to be remembered.
    pub fn with_group<R>(&mut self, name: &GroupId, change: impl FnOnce(&GroupId, &mut Group) -> R) -> R {
        let id = shard_of(name.as_str(), self.shards.len());
        self.dirty[id] = true;
        let shard = Arc::make_mut(&mut self.shards[id]);
        let entry = shard.groups.entry(name.clone());
        let name = entry.key().clone();
        let mut before = Totals::default();
        let group = entry.and_modify(|group| before = Totals::of_group(group)).or_default();
        let group = Arc::make_mut(group);
        let oldest_ms = group.log.oldest_ms();
        let result = change(&name, group);
        reschedule(&mut self.oldest_of_groups, &name, oldest_ms, group.log.oldest_ms());
        let mut after = Totals::default();
        if group.is_vacant() {
            shard.groups.remove(&name);
        } else {
            after = Totals::of_group(group);
        }
        self.totals.replace(before, after);
        result
    }

    pub fn mark_dirty(&mut self, id: usize) {
        self.dirty[id] = true;
    }

    /// The shards changed since they were last given out here.
    pub fn take_dirty(&mut self) -> Vec<(usize, Arc<Shard>)> {
        let dirty = self.dirty.iter_mut().enumerate().filter_map(|(id, dirty)| std::mem::take(dirty).then_some(id));
        dirty.map(|id| (id, self.shards[id].clone())).collect()
    }

    /// Changes where bodies of a shard are on this replica; nothing replicated changes by that.
    pub fn relocate(&mut self, id: usize, change: impl FnOnce(&mut Shard)) {
        let shard = Arc::make_mut(&mut self.shards[id]);
        let memory = |shard: &Shard| {
            let users = shard.users.values().map(|user| user.memory_bytes());
            users.chain(shard.groups.values().map(|group| group.log.memory_bytes())).sum::<u64>()
        };
        let before = memory(shard);
        change(shard);
        self.totals.memory_bytes = self.totals.memory_bytes - before + memory(shard);
    }
}
