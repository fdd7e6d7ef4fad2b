//! Whom a client watches, and what it is told of them.
//!
//! Invariant: what waits is the latest of each user, outside this session's buffer, until there is room; so a slow
//! reader misses what is over, and never how it is.

use std::collections::BTreeSet;

use cluster::id::{InvalidName, UserId};
use cluster::presence::Presence;

use super::inbox::DELIVERY_HIGH_BYTES;
use super::{Core, Moment, Stage};
use crate::protocol::{self, ErrorCode, ServerBody};
use crate::session::groups::refusal;
use crate::session::link::Link;
use crate::session::signals;

/// Most users told of at once.
pub const PRESENCES: usize = 64;

impl Core {
    pub(super) fn watch(
        &mut self,
        id: Option<u64>,
        watch: &protocol::Watch<'_>,
        at: Moment,
        out: &mut Vec<u8>,
        link: &impl Link,
    ) {
        let most = self.node.rules.watches as usize;
        let answer = match users(watch) {
            Ok(users) => match link.watch(users, most) {
                Ok(()) => ServerBody::Ok(protocol::Ok::default()),
                Err(_) => {
                    refusal(ErrorCode::TooManyWatches, "more users than `limits.watches`: none of these is watched")
                }
            },
            Err(rule) => signals::bad_name(rule),
        };
        self.say(id, answer, at, out);
    }

    pub(super) fn unwatch(
        &mut self,
        id: Option<u64>,
        watch: &protocol::Watch<'_>,
        at: Moment,
        out: &mut Vec<u8>,
        link: &impl Link,
    ) {
        let answer = match users(watch) {
            Ok(users) => {
                link.unwatch(&users);
                ServerBody::Ok(protocol::Ok::default())
            }
            Err(rule) => signals::bad_name(rule),
        };
        self.say(id, answer, at, out);
    }

    /// Whether to take what is new of those watched: there is some, and room to write it.
    pub fn wants_presences(&self, waiting_out: usize) -> bool {
        self.presence && self.stage == Stage::Live && waiting_out < DELIVERY_HIGH_BYTES
    }

    /// Writes what was taken. Fewer than [`PRESENCES`]: that is all.
    pub fn presences(&mut self, presences: &[Presence], at: Moment, out: &mut Vec<u8>) {
        self.presence = presences.len() >= PRESENCES;
        for presence in presences {
            self.say(None, ServerBody::Presence(presence.into()), at, out);
        }
    }
}

fn users(watch: &protocol::Watch<'_>) -> Result<BTreeSet<UserId>, InvalidName> {
    watch.users.iter().map(|user| UserId::new(user)).collect()
}

#[cfg(test)]
mod tests;
