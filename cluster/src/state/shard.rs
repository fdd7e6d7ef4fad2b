//! Users and groups, split into shards that a checkpoint can freeze one by one.
//!
//! Invariant: a shard depends on the name alone, and everything of a user or group is in one. A
//! frozen shard never changes: the state copies it (users and groups by reference) when it writes to it first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::group::Group;
use super::message::{Body, Message, Stored};
use super::user::User;
use crate::id::{GroupId, Pos, UserId};

/// The users and groups of one shard.
#[derive(Debug, Clone, Default)]
pub struct Shard {
    pub(super) users: BTreeMap<UserId, Arc<User>>,
    pub(super) groups: BTreeMap<GroupId, Arc<Group>>,
}

impl Shard {
    /// The bodies that are in memory only, by their messages' positions: two users here may have one message.
    #[must_use]
    pub fn memory_bodies(&self) -> BTreeMap<Pos, Bytes> {
        let users = self.users.values().filter(|user| user.memory_bytes() > 0).flat_map(|user| user.messages());
        let groups = self.groups.values().filter(|group| group.log.memory_bytes() > 0);
        let groups = groups.flat_map(|group| group.log.iter().map(|waiting| waiting.message.as_ref()));
        let in_memory = users.chain(groups).filter_map(|message| match &message.body {
            Body::Memory(bytes) => Some((message.pos, bytes.clone())),
            Body::Stored(_) => None,
        });
        in_memory.collect()
    }

    fn messages(&self) -> impl Iterator<Item = &Message> {
        let users = self.users.values().flat_map(|user| user.messages());
        let groups = self.groups.values().flat_map(|group| group.log.iter());
        users.chain(groups.map(|waiting| waiting.message.as_ref()))
    }

    /// The blob ranges that bodies of this shard are read from, by their messages' positions.
    #[must_use]
    pub fn stored_bodies(&self) -> BTreeMap<Pos, Stored> {
        let stored = self.messages().filter_map(|message| match message.body {
            Body::Stored(stored) => Some((message.pos, stored)),
            Body::Memory(_) => None,
        });
        stored.collect()
    }

    /// Puts bodies to where they were stored, or stored anew.
    pub(super) fn evict(&mut self, stored: &HashMap<Pos, Stored>) {
        for user in self.users.values_mut() {
            if user.messages().any(|message| stored.contains_key(&message.pos)) {
                Arc::make_mut(user).relocate(|pos| stored.get(&pos).copied());
            }
        }
        for group in self.groups.values_mut() {
            if group.log.iter().any(|waiting| stored.contains_key(&waiting.message.pos)) {
                Arc::make_mut(group).log.relocate(|pos| stored.get(&pos).copied());
            }
        }
    }
}

/// The shard of a user or group of this name, of `count`: FNV-1a, folded. Part of the checkpoints' format.
pub(super) fn shard_of(name: &str, count: usize) -> usize {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    ((hash ^ (hash >> 32)) % count as u64) as usize
}
