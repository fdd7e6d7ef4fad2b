//! A group: its members, and the messages that some of them have yet to read.
//!
//! A message is stored once, whatever the number of members; a member's devices read it by their
//! cursors, as they read the user's own inbox. Invariant: a device holds a message as long as it has not
//! passed it, if its user was a member at the message's position.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::held::Held;
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
    /// What some of them have yet to read.
    pub log: Held,
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
}
