//! Users, split into shards that a checkpoint can freeze one by one.
//!
//! Invariant: a user's shard depends on the name alone, and everything of a user is in one shard. A
//! frozen shard never changes: the state copies it (users by reference) when it writes to it first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::message::{Body, Stored};
use super::user::User;
use crate::id::{Pos, UserId};

/// The users of one shard.
#[derive(Debug, Clone, Default)]
pub struct Shard {
    pub(super) users: BTreeMap<UserId, Arc<User>>,
}

impl Shard {
    /// The bodies that are in memory only, each with its message's position.
    #[must_use]
    pub fn memory_bodies(&self) -> Vec<(Pos, Bytes)> {
        let mut bodies = Vec::new();
        for user in self.users.values().filter(|user| user.inbox.memory_bytes() > 0) {
            for slot in user.inbox.iter() {
                if let Body::Memory(bytes) = &slot.message.body {
                    bodies.push((slot.pos, bytes.clone()));
                }
            }
        }
        bodies
    }

    /// The blob ranges that bodies of this shard are read from, each with its message's position.
    pub fn stored_bodies(&self) -> impl Iterator<Item = (Pos, Stored)> {
        let slots = self.users.values().flat_map(|user| user.inbox.iter());
        slots.filter_map(|slot| match slot.message.body {
            Body::Stored(stored) => Some((slot.pos, stored)),
            Body::Memory(_) => None,
        })
    }

    /// Puts bodies to where they were stored, or stored anew.
    pub(super) fn evict(&mut self, stored: &HashMap<Pos, Stored>) {
        for user in self.users.values_mut() {
            if user.inbox.iter().any(|slot| stored.contains_key(&slot.pos)) {
                Arc::make_mut(user).inbox.relocate(|pos| stored.get(&pos).copied());
            }
        }
    }
}

/// A user's shard, of `count`: FNV-1a, folded. Part of the checkpoints' format.
pub(super) fn shard_of(user: &UserId, count: usize) -> usize {
    let hash = user
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    ((hash ^ (hash >> 32)) % count as u64) as usize
}
