//! Which clients a run has.

use cluster::state::{GroupLimits, Limits};
use serde::{Deserialize, Serialize};

use crate::dice::Dice;

/// How many clients of each kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mix {
    /// How many of those who chat have two devices.
    pub multi_device_users: u64,
    /// Users whose client dies or leaves again and again, and is back elsewhere soon.
    pub roamers: u64,
    /// Users with devices that are forgotten when they leave, and come anew.
    pub ephemeral: u64,
    /// Users who take one message a second, and no more are acknowledged than taken.
    pub slow: u64,
    /// Users with a prompt device and a slow one, whose client dies again and again while messages and
    /// gaps wait in it.
    pub dozers: u64,
    /// Users who only listen, and start their device anew elsewhere, again and again, without ending
    /// the client that has it.
    pub twins: u64,
    /// Users with two devices who forget one of them, again and again.
    pub forgetful: u64,
    /// Users with two devices who forget one of them, which stays until it is told so, and is back soon.
    pub outcasts: u64,
    /// Users who live beside a node, each beside another one: when it goes down they lose their connection with it,
    /// and are back seconds later.
    pub neighbours: u64,
    /// Strangers who hold a good token and break the rules: they acknowledge nothing, answer no ping,
    /// send malformed and oversize frames.
    pub rude: u64,
    /// Strangers with bad tokens, or with no protocol at all.
    pub hostile: u64,
    /// For how long a token of those who keep to the rules is good, ms; 0: for all time.
    pub tokens_ms: u64,
    /// Strangers whose tokens end, and who bring no new ones.
    pub lapsing: u64,
    /// Users whose tokens are revoked again and again.
    pub exiles: u64,
    /// Users who write large messages to one other as fast as they are let, and those others, who take them at once.
    pub floods: u64,
    /// Connections in one storm; 0: there is none.
    pub storm: u64,
    /// Most bytes that are added to a message.
    pub padding: u64,
    /// Groups that those who chat are in; some come and go.
    pub groups: u64,
    /// Longest pause between two typing or read marks of each of those who chat, ms; 0: there are none.
    pub signals_ms: u64,
    /// Users whom each of those who chat watches.
    pub watches: u64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            multi_device_users: 1,
            roamers: 0,
            ephemeral: 0,
            slow: 0,
            dozers: 0,
            twins: 0,
            forgetful: 0,
            outcasts: 0,
            neighbours: 0,
            rude: 0,
            hostile: 0,
            exiles: 0,
            tokens_ms: 0,
            lapsing: 0,
            floods: 0,
            storm: 0,
            padding: 0,
            groups: 0,
            watches: 0,
            signals_ms: 0,
        }
    }
}

impl Mix {
    /// A mix by chance: always some who chat, and of the others sometimes some.
    pub fn draw(dice: &Dice) -> Self {
        let some = |most: u64| if dice.one_in(2) { dice.between(1, most) } else { 0 };
        Self {
            multi_device_users: dice.between(1, 8),
            roamers: some(3),
            ephemeral: some(3),
            slow: some(2),
            rude: some(3),
            hostile: some(3),
            storm: if dice.one_in(4) { dice.between(10, 60) } else { 0 },
            padding: [0, 0, 100, 2_000][dice.between(0, 3) as usize],
            groups: some(3),
            dozers: some(2),
            twins: some(2),
            watches: some(4),
            signals_ms: some(3) * 1_000,
            // What is left is drawn elsewhere, or is for scenarios only.
            ..Self::default()
        }
    }
}

/// Limits by chance: mostly as they are shipped, sometimes so small that inboxes overflow, messages
/// expire, and senders wait for answers.
pub fn draw_limits(dice: &Dice) -> Limits {
    let mut limits = Limits::default();
    if dice.one_in(4) {
        limits.inbox_messages = u32::try_from(dice.between(20, 200)).unwrap_or(u32::MAX);
    }
    if dice.one_in(8) {
        limits.inbox_bytes = dice.between(20_000, 200_000);
    }
    if dice.one_in(8) {
        limits.message_ttl_ms = dice.between(5_000, 20_000);
    }
    if dice.one_in(4) {
        limits.inflight = u32::try_from(dice.between(1, 8)).unwrap_or(u32::MAX);
    }
    limits
}

/// Limits of groups by chance: mostly as they are shipped, sometimes so small that they are met.
pub fn draw_group_limits(dice: &Dice) -> GroupLimits {
    let mut limits = GroupLimits::default();
    let small = |most: u64| u32::try_from(dice.between(1, most)).unwrap_or(u32::MAX);
    if dice.one_in(4) {
        limits.members = small(6);
    }
    if dice.one_in(4) {
        limits.per_user = small(2);
    }
    limits
}

/// Whether inboxes lose messages under these limits in a short run.
pub fn is_tight(limits: &Limits) -> bool {
    let shipped = Limits::default();
    limits.inbox_messages < shipped.inbox_messages
        || limits.inbox_bytes < shipped.inbox_bytes
        || limits.message_ttl_ms < shipped.message_ttl_ms
}
