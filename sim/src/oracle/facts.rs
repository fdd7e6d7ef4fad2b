//! What the committed log says, in its order: the one history that all that clients saw must fit.

use std::collections::{BTreeMap, BTreeSet};

use cluster::id::{MessageId, NodeId};
use cluster::state::GroupRefusal;

use super::devices::KnownSpans;
use crate::ledger::{Device, Name};

/// A message's place.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its position.
    pub pos: u64,
    /// Its id.
    pub mid: MessageId,
    /// The name in its body, if it has one.
    pub name: Option<Name>,
    /// To whom: a user, or a group with `#` before its name.
    pub to: String,
    /// The client instance that sent it.
    pub instance: u64,
    /// The node by which it came.
    pub node: NodeId,
    /// The device that sent it, where the other ones of its user get a copy: of direct messages to others, from
    /// the entry on by which all nodes know of copies.
    pub copied_from: Option<Device>,
}

/// Something that was done with a group.
#[derive(Debug, Clone)]
pub struct Grouped {
    /// Its position.
    pub pos: u64,
    /// The group, with `#` before its name.
    pub group: String,
    /// By whom.
    pub user: String,
    /// It was left; else made or joined.
    pub left: bool,
}

/// A session's registration.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Its epoch.
    pub epoch: u64,
    /// Of which device.
    pub device: Device,
    /// By which client instance.
    pub instance: u64,
    /// On which node.
    pub node: NodeId,
}

/// A revocation of a user's tokens.
#[derive(Debug, Clone)]
pub struct Revoked {
    /// The entry that says so.
    pub index: u64,
    /// Whose.
    pub user: String,
    /// Those issued before this time, ms since the Unix epoch.
    pub before_ms: u64,
    /// All nodes knew that it ends sessions.
    pub ends: bool,
}

/// A node's life in the cluster, from one start to its end.
#[derive(Debug, Clone, Copy)]
pub struct Generation {
    /// Whose.
    pub node: NodeId,
    /// When it was committed, in ns.
    pub began_at: u64,
    /// When its end was committed, in ns.
    pub ended_at: Option<u64>,
}

/// As many devices of a user are there from an entry on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    /// The entry.
    pub index: u64,
    /// When it was committed, in ns.
    pub at: u64,
    /// How many.
    pub devices: u32,
}

/// A time for which the breaker was open.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// The entry that opened it.
    pub opened: u64,
    /// The entry that closed it, and when that was committed, in ns; while it is open there is none.
    pub closed: Option<(u64, u64)>,
}

/// Something that nodes count.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// The entry that says so.
    pub index: u64,
    /// Which node counts it.
    pub node: NodeId,
    /// How many.
    pub count: u64,
}

/// What the state is full of, from an entry on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// The entry.
    pub index: u64,
    /// Messages that wait.
    pub messages: u64,
    /// Sessions.
    pub sessions: u64,
}

/// A message that a device has acknowledged, the first one to do so.
#[derive(Debug, Clone, Copy)]
pub struct Timed {
    /// The entry in which it is stored.
    pub sent: u64,
    /// The entry that says so.
    pub index: u64,
    /// The node that stored it, and counts how long its way took.
    pub node: NodeId,
}

/// The log's content.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Messages, each once, in log order.
    pub stored: Vec<Stored>,
    /// When all nodes knew of copies, in ns.
    pub copied_since: Option<u64>,
    /// The entry by which all nodes knew that no session goes on over its device's forgetting.
    pub outcasts_from: Option<u64>,
    /// What was done with groups, in log order.
    pub grouped: Vec<Grouped>,
    /// Whom the log refused to join or make a group, and why.
    pub not_joined: BTreeSet<(String, String, GroupRefusal)>,
    /// Revocations, in log order.
    pub revoked: Vec<Revoked>,
    /// Registrations, in log order.
    pub registered: Vec<Registered>,
    /// When each device was known.
    pub known: KnownSpans,
    /// Where each device's sends stand that were new, stored or refused: those the cluster remembers, as
    /// many as a client may have without an answer.
    pub handled: BTreeMap<Device, Vec<u64>>,
    /// How many devices of each user were there, as it changed.
    pub presence: BTreeMap<String, Vec<Present>>,
    /// When the breaker was open, in log order.
    pub pauses: Vec<Pause>,
    /// All of all nodes.
    pub generations: Vec<Generation>,
    /// Nodes' incarnations: each counts one.
    pub ups: Vec<Counted>,
    /// What was in the state, as it changed.
    pub levels: Vec<Level>,
    /// Devices' first acknowledgements.
    pub acked: Vec<Counted>,
    /// Messages' first acknowledgements.
    pub timed: Vec<Timed>,
    /// Sends refused for good.
    pub refused: Vec<Counted>,
    /// Repeats of sends.
    pub duplicates: Vec<Counted>,
    /// Messages lost to devices at an inbox limit.
    pub lapsed: Vec<Counted>,
    /// The same of messages to groups, at the group's limit.
    pub group_lapsed: Vec<Counted>,
    /// Messages to groups that expired before a device had them.
    pub group_expired: Vec<Counted>,
    /// Messages that expired before a device had them.
    pub expired: Vec<Counted>,
}

impl Facts {
    /// The entry by which a node's process came up that was started when the log was committed up to `committed`.
    pub fn up(&self, node: NodeId, committed: u64) -> u64 {
        let its = |up: &&Counted| up.node == node && up.index > committed;
        self.ups.iter().find(its).map_or(u64::MAX, |up| up.index)
    }
}

/// The log entry of a position.
pub fn index(pos: u64) -> u64 {
    cluster::id::Pos(pos).index()
}
