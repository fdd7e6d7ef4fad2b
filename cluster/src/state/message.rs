//! A stored message.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::id::{DeviceId, GroupId, MessageId, NodeId, Pos, UserId};
use crate::trace::Mark;

/// A message as it waits in an inbox. Shared, not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its place in the log: order, and `seq` to clients.
    pub pos: Pos,
    /// Its id.
    pub mid: MessageId,
    /// Who sent it.
    pub from: UserId,
    /// From which device.
    pub device: DeviceId,
    /// To whom.
    pub to: Destination,
    /// The node its sender was connected to.
    pub origin: NodeId,
    /// The origin's wall clock at arrival, ms since the Unix epoch.
    pub ts_ms: u64,
    /// Replicated time when it was stored, ms: its age.
    pub stored_at_ms: u64,
    /// Where its body is on this replica.
    pub body: Body,
    /// Whether this node has told the sender's that a device has it.
    pub told: Told,
    /// Whether it is traced on this replica.
    pub trace: Mark,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To a user.
    User(UserId),
    /// To all members of a group.
    Group(GroupId),
}

/// A mark of this replica's own on a message: no part of the replicated state. A message to a group
/// has many recipients, and its sender is told of one.
#[derive(Debug, Default)]
pub struct Told(AtomicBool);

impl Told {
    /// Makes the mark; false if it was there.
    pub fn mark(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

impl Clone for Told {
    fn clone(&self) -> Self {
        Self(AtomicBool::new(self.0.load(Ordering::Relaxed)))
    }
}

impl PartialEq for Told {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Told {}

/// Where a replica keeps a body. Differs between replicas: no part of the replicated state's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// In memory.
    Memory(Bytes),
    /// In a checkpoint's blob.
    Stored(Stored),
}

/// A range of a checkpoint's blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stored {
    /// Which blob.
    pub blob: u64,
    /// Where it starts, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub len: u32,
}

impl Body {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::Stored(stored) => stored.len as usize,
        }
    }

    /// Whether it has no bytes. (A JSON text never is.)
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
