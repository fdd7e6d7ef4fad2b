//! A group: its members, and the messages that some of them have yet to read.
//!
//! A message is stored once, whatever the number of members; a member's devices read it by their
//! cursors, as they read the user's own inbox. Invariant: a message waits exactly as long as a device
//! holds it, that is, one of a user who was a member at its position and has not passed it. How many
//! do is counted, so that no acknowledgement looks at other members.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::device::NEVER;
use super::inbox::memory;
use super::message::{Body, Message, Stored};
use crate::id::{GroupId, Pos, UserId};

/// A group's members, each with the position since which it is one.
pub type Members = BTreeMap<UserId, Pos>;

/// A time that a user was in a group, kept with the user: for as long as it lasts, or there is
/// something of it to read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Membership {
    pub group: GroupId,
    /// Messages behind this position are the user's.
    pub from: Pos,
    /// Up to this one; `None` while the user is a member.
    pub until: Option<Pos>,
}

impl Membership {
    /// The positions, first exclusive and last inclusive, of what a device with its cursor at `pos` may hold.
    pub fn range(&self, pos: Pos) -> (Pos, Pos) {
        (self.from.max(pos), self.until.unwrap_or(Pos(u64::MAX)))
    }
}

/// A message that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub message: Arc<Message>,
    /// Devices that hold it; a user without devices counts as one.
    pub held: u64,
    /// Some device of a member other than the sender acknowledged it.
    pub acked: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    /// Who made it; `None` before.
    pub creator: Option<UserId>,
    /// Behind a reference, because effects carry it.
    pub members: Arc<Members>,
    /// Users who were members, and have yet to read something from then.
    pub leavers: BTreeSet<UserId>,
    /// Devices of the members; a user without devices counts as one.
    pub holders: u64,
    log: BTreeMap<Pos, Waiting>,
    bytes: u64,
    memory: u64,
}

fn between(after: Pos, upto: Pos) -> (Bound<Pos>, Bound<Pos>) {
    (Bound::Excluded(after), Bound::Included(upto.max(after)))
}

impl Group {
    /// Nothing has to be remembered of this group.
    pub fn is_vacant(&self) -> bool {
        self.members.is_empty() && self.leavers.is_empty() && self.log.is_empty()
    }

    /// Whether anybody can be told of it: the last member to leave ends a group.
    pub fn exists(&self) -> bool {
        !self.members.is_empty()
    }

    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Bytes of the waiting bodies.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the waiting bodies that are in memory on this replica.
    pub fn memory_bytes(&self) -> u64 {
        self.memory
    }

    /// When the oldest waiting message was stored, on replicated time; [`NEVER`] if none waits.
    pub fn oldest_ms(&self) -> u64 {
        self.log.values().next().map_or(NEVER, |waiting| waiting.message.stored_at_ms)
    }

    /// The waiting messages, in log order.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.log.values()
    }

    /// The waiting messages behind `after`, up to `upto`.
    pub fn range(&self, (after, upto): (Pos, Pos)) -> impl Iterator<Item = &Waiting> {
        self.log.range(between(after, upto)).map(|(_, waiting)| waiting)
    }

    /// Whether any message waits there.
    pub fn has(&self, range: (Pos, Pos)) -> bool {
        self.range(range).next().is_some()
    }

    pub fn push(&mut self, waiting: Waiting) {
        let message = &waiting.message;
        self.bytes += message.body.len() as u64;
        self.memory += memory(message);
        let before = self.log.insert(message.pos, waiting);
        assert!(before.is_none(), "a position is one message's");
    }

    /// One device holds these messages no more; `passed` sees each before it may go.
    pub fn release(&mut self, (after, upto): (Pos, Pos), mut passed: impl FnMut(&mut Waiting)) {
        let mut gone = Vec::new();
        for (pos, waiting) in self.log.range_mut(between(after, upto)) {
            passed(waiting);
            waiting.held = waiting.held.checked_sub(1).expect("who releases a message held it");
            if waiting.held == 0 {
                gone.push(*pos);
            }
        }
        for pos in gone {
            self.remove(pos);
        }
    }

    /// Takes a message out.
    ///
    /// # Panics
    /// When it is not there.
    pub fn remove(&mut self, pos: Pos) {
        let waiting = self.log.remove(&pos).expect("the message waits");
        self.bytes -= waiting.message.body.len() as u64;
        self.memory -= memory(&waiting.message);
    }

    /// Lets bodies in memory go of which `locate` knows where they are stored.
    pub fn relocate(&mut self, locate: impl Fn(Pos) -> Option<Stored>) {
        for (pos, waiting) in &mut self.log {
            if let Some(stored) = locate(*pos) {
                assert!(stored.len as usize == waiting.message.body.len(), "a body never changes");
                self.memory -= memory(&waiting.message);
                Arc::make_mut(&mut waiting.message).body = Body::Stored(stored);
            }
        }
    }
}
