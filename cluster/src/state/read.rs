//! What nodes read from the state: they never change it but through the log.

use std::sync::Arc;

use super::device::{GapReason, Registration};
use super::limits::Limits;
use super::machine::State;
use super::message::Message;
use super::nodes::NodeRecord;
use super::store::Totals;
use crate::id::{DeviceId, Epoch, NodeId, Pos, UserId};

/// A device as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceView {
    /// Position of its last registration: what the next one must expect.
    pub last_epoch: Epoch,
    /// The live session.
    pub session: Option<SessionView>,
    /// All messages up to here are acknowledged; [`Pos::ZERO`] when `known` is false.
    pub cursor: Pos,
    /// False: the device was forgotten, and only its last epoch and its dedup ring are kept.
    pub known: bool,
    /// It was away when the inbox was full: it holds no messages, and gets a gap when it is back.
    pub lapsed: bool,
}

/// A live session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionView {
    /// Position of its registration.
    pub epoch: Epoch,
    /// The node that holds the connection.
    pub node: NodeId,
}

/// What a device finds in its inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A message.
    Message(Arc<Message>),
    /// The device missed messages. Acknowledged like a message.
    Gap {
        /// Position of the last message missed.
        seq: Pos,
        /// Why the messages are gone.
        reason: GapReason,
        /// How many, counted from the device's cursor.
        lost: u64,
    },
}

impl Item {
    /// Its place in the log: what an acknowledgement names.
    #[must_use]
    pub fn seq(&self) -> Pos {
        match self {
            Self::Message(message) => message.pos,
            Self::Gap { seq, .. } => *seq,
        }
    }
}

impl State {
    /// Index of the last log entry applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The replicated limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Commands up to this level are in the log, or may be.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// Replicated time, ms since the cluster began.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// A device that is known, or was until lately.
    #[must_use]
    pub fn device(&self, user: &UserId, device: &DeviceId) -> Option<DeviceView> {
        let user = self.store.user(user)?;
        if let Some(device) = user.device(device) {
            return Some(DeviceView {
                last_epoch: device.last.epoch,
                session: device.session.map(|node| SessionView { epoch: device.last.epoch, node }),
                cursor: device.cursor.pos,
                known: true,
                lapsed: device.lapsed.is_some(),
            });
        }
        let retired = user.retired(device)?;
        let last_epoch = retired.last.epoch;
        Some(DeviceView { last_epoch, session: None, cursor: Pos::ZERO, known: false, lapsed: false })
    }

    /// The last registration of a device that is known, or was until lately.
    #[must_use]
    pub fn last_registration(&self, user: &UserId, device: &DeviceId) -> Option<Registration> {
        let user = self.store.user(user)?;
        let known = user.device(device).map(|device| device.last);
        known.or_else(|| user.retired(device).map(|retired| retired.last))
    }

    /// A live session's user, device and node.
    #[must_use]
    pub fn session(&self, epoch: Epoch) -> Option<(&UserId, &DeviceId, NodeId)> {
        self.sessions.get(&epoch).map(|session| (&session.user, &session.device, session.node))
    }

    /// A node, up or down.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(id)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        self.nodes.iter()
    }

    /// What waits for a device strictly behind `after` and its cursor, in log order, a pending gap
    /// first: at most `max_count` items and `max_bytes` of bodies, but one item if there is any.
    #[must_use]
    pub fn inbox(&self, user: &UserId, device: &DeviceId, after: Pos, max_count: usize, max_bytes: usize) -> Vec<Item> {
        let mut items = Vec::new();
        let Some(user) = self.store.user(user) else { return items };
        let Some(device) = user.device(device).filter(|device| device.lapsed.is_none()) else { return items };
        let cursor = &device.cursor;
        if let Some(gap) = cursor.gap.filter(|gap| gap.seq > after) {
            items.push(Item::Gap { seq: gap.seq, reason: gap.reason, lost: cursor.lost() });
        }
        let from = cursor.front().max(user.inbox.ordinal_after(after));
        let mut bytes = 0;
        for slot in user.inbox.from(from) {
            bytes += slot.message.body.len();
            if !items.is_empty() && (items.len() >= max_count || bytes > max_bytes) {
                break;
            }
            items.push(Item::Message(slot.message.clone()));
        }
        items
    }

    /// How much there is; at no cost.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals { sessions: self.sessions.len() as u64, ..self.store.totals() }
    }
}
