//! The state's invariants as code: checked on what a checkpoint brings, and by tests and the
//! simulator on what applying made.

use std::collections::BTreeSet;

use super::device::{Cursor, Device, NEVER};
use super::group::{Group, Membership};
use super::machine::State;
use super::store::Store;
use super::user::User;
use crate::id::{GroupId, Pos, UserId};

fn ensure(holds: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(otherwise) }
}

impl User {
    /// # Errors
    /// The invariant that does not hold.
    pub(super) fn audit(&self) -> Result<(), &'static str> {
        let (base, next) = (self.inbox.base(), self.inbox.next());
        ensure(self.devices.is_sorted_by(|a, b| a.id < b.id), "devices out of order")?;
        ensure(self.retired.is_sorted_by(|a, b| a.id < b.id), "retired devices out of order")?;
        ensure(self.heir.is_some() == self.devices.is_empty(), "an heir beside devices, or none at all")?;
        ensure(!self.is_vacant(), "a user about whom there is nothing to know")?;
        for device in &self.devices {
            ensure(self.retired(&device.id).is_none(), "a known device that is retired")?;
            ensure(device.lapsed.is_none() || device.session.is_none(), "a live session without an inbox")?;
            ensure(device.cursor.front() <= device.lapsed.unwrap_or(next), "a cursor beyond the inbox")?;
            ensure(device.lapsed.is_none_or(|counted| counted <= base), "a loss counted before it came about")?;
            let away = device.session.is_none();
            ensure(away == (device.forget_ms != NEVER), "a device that is forgotten at the wrong time")?;
            ensure(away || device.ring_ms == NEVER, "the ring of a live session is dropped")?;
            ensure(self.check_ms <= device.due_ms(), "a device's deadline is missed")?;
        }
        let cursors = self.devices.iter().map(|device| &device.cursor).chain(self.heir.iter().map(|heir| &heir.cursor));
        for cursor in cursors {
            ensure(cursor.front() >= cursor.passed, "a gap that ends before it begins")?;
            ensure(cursor.gap.is_none_or(|gap| gap.upto > cursor.passed), "an empty gap")?;
            ensure(cursor.gap.is_none_or(|gap| gap.seq > cursor.pos), "a gap that was passed")?;
            ensure(cursor.scattered.is_none_or(|gap| gap.seq > cursor.pos && gap.lost > 0), "a gap that was passed")?;
            ensure(cursor.front() <= next, "a cursor beyond the inbox")?;
        }
        self.audit_copies()?;
        ensure(self.groups.is_sorted_by(|a, b| a < b), "memberships out of order")?;
        let apart = |pair: &[Membership]| {
            pair[0].group != pair[1].group || pair[0].until.is_some_and(|until| until < pair[1].from)
        };
        ensure(self.groups.windows(2).all(apart), "a user who is in a group twice")?;
        let holders = self.devices.iter().filter_map(Device::holds);
        let held = holders.chain(self.heir.iter().map(|heir| heir.cursor.front())).min();
        ensure(held == Some(base), "a message that nobody holds, or that is gone too soon")?;
        let heir_ms = self.heir.map_or(NEVER, |heir| heir.forget_ms);
        let retired_ms = self.retired.iter().map(|retired| retired.drop_ms).min().unwrap_or(NEVER);
        ensure(self.check_ms <= heir_ms.min(retired_ms), "a deadline is missed")?;
        let oldest_ms = self.messages().map(|message| message.stored_at_ms).min().unwrap_or(NEVER);
        ensure(self.oldest_ms <= oldest_ms, "a message that never expires")
    }

    fn audit_copies(&self) -> Result<(), &'static str> {
        ensure(self.held_copies().is_none_or(|copies| !copies.is_empty()), "copies that are none")?;
        for copy in self.copies() {
            let (pos, by) = (copy.message.pos, &copy.message.device);
            let holds = |(device, cursor): &(Option<&Device>, &Cursor)| {
                device.is_none_or(|device| device.id != *by) && cursor.pos < pos
            };
            let held = self.cursors().filter(holds).count() as u64;
            ensure(copy.held == held && held > 0, "a copy that nobody holds, or that is gone too soon")?;
        }
        Ok(())
    }
}

impl State {
    /// Who is in a group, and who holds what of it, as its members' own records say.
    fn audit_group(&self, name: &GroupId, group: &Group) -> Result<(), &'static str> {
        ensure(!group.is_vacant(), "a group about which there is nothing to know")?;
        // How many more hold the message there than the one before: one step a device, however much it holds.
        let places: Vec<Pos> = group.log.iter().map(|waiting| waiting.message.pos).collect();
        let mut more = vec![0_i64; places.len() + 1];
        let mut holders = 0;
        let known = group.members.keys().chain(&group.leavers);
        for user in known.collect::<BTreeSet<&UserId>>() {
            let of = self.store.user(user).ok_or("a member who is not known")?;
            let mine = || of.groups.iter().filter(|of| of.group == *name);
            let open = mine().find(|of| of.until.is_none()).map(|of| of.from);
            ensure(open == group.members.get(user).copied(), "a member who does not know, or not since when")?;
            let left = mine().any(|of| of.until.is_some());
            ensure(left == group.leavers.contains(user), "a former member who is forgotten, or is none")?;
            for (_, cursor) in of.cursors() {
                holders += u64::from(open.is_some());
                for (after, upto) in mine().map(|of| of.range(cursor.pos)) {
                    let first = places.partition_point(|pos| *pos <= after);
                    more[first] += 1;
                    more[places.partition_point(|pos| *pos <= upto).max(first)] -= 1;
                }
            }
        }
        ensure(holders == group.holders, "a group that miscounts its members' devices")?;
        let mut held = 0;
        let counted = group.log.iter().zip(more).all(|(waiting, more)| {
            held += more;
            held > 0 && waiting.held == held.unsigned_abs()
        });
        ensure(counted, "a message of a group that nobody holds, or that is gone too soon")
    }

    /// Checks what groups and their members know of each other.
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub(super) fn audit_groups(&self) -> Result<(), &'static str> {
        for (name, group) in self.store.shards().iter().flat_map(|shard| &shard.groups) {
            self.audit_group(name, group)?;
        }
        for (name, user) in self.store.shards().iter().flat_map(|shard| &shard.users) {
            for of in &user.groups {
                let group = self.store.group(&of.group).ok_or("a member of a group that is not known")?;
                let known =
                    if of.until.is_some() { group.leavers.contains(name) } else { group.members.contains_key(name) };
                ensure(known, "a member whom its group does not know")?;
            }
        }
        Ok(())
    }

    /// Checks all that must hold between the parts of the state. Costs as much as the state is big.
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub fn audit(&self) -> Result<(), &'static str> {
        let mut rebuilt = Store::new(Self::SHARDS);
        let mut sessions = 0;
        for (id, shard) in self.store.shards().iter().enumerate() {
            for (name, user) in &shard.users {
                user.audit()?;
                for device in &user.devices {
                    let Some(node) = device.session else { continue };
                    let session = self.sessions.get(&device.last.epoch).ok_or("a live session that is not known")?;
                    let same = session.user == *name && session.device == device.id && session.node == node;
                    ensure(same, "a session that is another's")?;
                    let up = self.nodes.get(node).is_some_and(|record| record.generation.is_some());
                    ensure(up, "a session on a node that is down")?;
                    sessions += 1;
                }
            }
            rebuilt.insert(id, shard.as_ref().clone())?;
        }
        self.audit_groups()?;
        ensure(sessions == self.sessions.len(), "a session that no device has")?;
        let counted: u64 = self.nodes.iter().map(|(_, record)| record.sessions).sum();
        ensure(counted == sessions as u64, "nodes miscount their sessions")?;
        ensure(rebuilt.totals() == self.store.totals(), "totals miscounted")?;
        ensure(rebuilt.same_agenda(&self.store), "somebody's due work would never be done")
    }
}
