//! What applying a command means to the nodes: the state machine's only outputs.
//!
//! Effects are derived on every replica and never leave it; a node acts on those that concern its
//! own sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::device::GapReason;
use super::group::Members;
use super::message::Message;
use crate::id::{DeviceId, Epoch, Generation, MessageId, NodeId, UserId};
use crate::observer::Forgotten;
use crate::trace::Traced;

/// One consequence of an applied command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A batch was applied; one outcome for each of its operations, in order.
    BatchApplied {
        /// The origin.
        node: NodeId,
        /// Its incarnation.
        generation: Generation,
        /// The batch's number.
        seq: u64,
        /// One for each operation.
        outcomes: Vec<Outcome>,
    },
    /// A batch was not applied, nor any part of it.
    BatchRefused {
        /// The origin.
        node: NodeId,
        /// The generation that the batch carried.
        generation: Generation,
        /// The batch's number.
        seq: u64,
        /// Why.
        refusal: BatchRefusal,
    },
    /// Sessions of these users began or ended: not as many of their devices may be there as before.
    Presence(Vec<UserId>),
    /// A traced message was stored.
    Traced(Arc<Traced>),
    /// A user's inbox grew: its live sessions have something to read.
    Wake(UserId),
    /// A group has a new message: its members' live sessions have something to read.
    WakeGroup(Arc<Members>),
    /// Devices lost messages of a group, at its limit or because they were too old. Each has a gap
    /// for them.
    GroupLost {
        /// Why.
        reason: GapReason,
        /// Pairs of message and device, by the node that counts them: the live session's, else
        /// `None`: the leader that wrote the entry.
        lost: BTreeMap<Option<NodeId>, u64>,
    },
    /// A session ended because a newer one of its device was registered, or its device forgotten on
    /// request.
    Superseded {
        /// The node that held it.
        node: NodeId,
        /// The session that ended.
        epoch: Epoch,
    },
    /// A session ended though its connection may stand: its node may begin it again.
    Ended {
        /// The node that held it.
        node: NodeId,
        /// The session that ended.
        epoch: Epoch,
    },
    /// A device lost messages at an inbox limit, or copies at theirs, and has a gap for them, now or when it is back. A
    /// live session's reader must look at its inbox again. Each loss is counted once, when it is certain.
    Lapsed {
        /// Whose inbox.
        user: UserId,
        /// Messages lost to this device.
        lost: u64,
        /// The node that counts them: the live session's, else `None`: the leader that wrote the entry.
        node: Option<NodeId>,
    },
    /// A device's cursor passed these messages under a live session.
    Acked {
        /// The node of the session that acknowledged.
        node: NodeId,
        /// That session.
        epoch: Epoch,
        /// How many direct messages the cursor passed, copies of the user's own among them.
        count: u64,
        /// How many messages of groups.
        group: u64,
        /// The direct ones to this user that no device of theirs had passed before, and those of groups
        /// that no device of another member than the sender had.
        first: Vec<FirstAck>,
    },
    /// A device is remembered no more.
    Forgotten {
        /// Why.
        why: Forgotten,
        /// The node that counts it, whose session asked for it or was its last; else the leader that wrote the entry.
        node: Option<NodeId>,
    },
    /// Messages expired before every device had them. Users without devices count as one. The leader
    /// that wrote the entry counts them.
    Expired {
        /// Whose they were.
        user: UserId,
        /// Pairs of message and device.
        count: u64,
    },
    /// The breaker was opened or closed. When it is closed, every live session may have something to read.
    Breaker {
        /// Whether it is open now.
        open: bool,
    },
    /// A node's new incarnation.
    NodeUp {
        /// The node.
        node: NodeId,
        /// Its new generation.
        generation: Generation,
        /// The boot's nonce: a process that reads its own log after a restart meets the generations
        /// of earlier ones, and must not take them for its own.
        nonce: u64,
    },
    /// A `NodeUp` was refused: this data directory is an old copy of the node's.
    NodeRefused {
        /// The node.
        node: NodeId,
        /// The boot count it came with.
        boot: u64,
        /// The boot's nonce, so that only the process that sent it stops.
        nonce: u64,
        /// The boot count that the cluster knows.
        known: u64,
    },
    /// A user's tokens that were issued before this time count no more: sessions by them are to end.
    Revoked {
        /// The user.
        user: UserId,
        /// The time, ms since the Unix epoch.
        before_ms: u64,
    },
    /// A node's generation was declared down; its sessions have ended.
    NodeDown {
        /// The node.
        node: NodeId,
        /// The generation.
        generation: Generation,
    },
}

/// The first device of a recipient has a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstAck {
    /// The message.
    pub message: Arc<Message>,
    /// The recipient.
    pub by: UserId,
    /// The recipient's device.
    pub device: DeviceId,
}

/// The outcome of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The session lives, under this epoch.
    Registered(Epoch),
    /// There is no session.
    RegisterRefused(RegisterRefusal),
    /// The message is stored, now or (`duplicate`) before.
    Stored {
        /// The message.
        mid: MessageId,
        /// The ring knew it: nothing was stored a second time.
        duplicate: bool,
    },
    /// The message was refused for good, now or (`duplicate`) before.
    SendRefused {
        /// The message.
        mid: MessageId,
        /// Why.
        refusal: SendRefusal,
        /// The ring knew it.
        duplicate: bool,
    },
    /// The operation's session is not live (superseded, closed, its node down): nothing happened.
    Fenced,
    /// Done (cursor moves, closes, forgetting, groups).
    Done,
    /// What was to be done with a group is refused for good.
    GroupRefused(GroupRefusal),
}

impl Outcome {
    pub(super) fn of_send(mid: MessageId, result: Result<(), SendRefusal>, duplicate: bool) -> Self {
        match result {
            Ok(()) => Self::Stored { mid, duplicate },
            Err(refusal) => Self::SendRefused { mid, refusal, duplicate },
        }
    }
}

/// Why a session could not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterRefusal {
    /// The device's last epoch is another than expected: look again, and try again if the socket is still open.
    Conflict {
        /// The device's last epoch.
        current: Epoch,
    },
    /// A newer attempt of the same client instance has registered (4005).
    OlderAttempt,
    /// Another client instance has taken the device over from this one (4502).
    Replaced,
    /// The user has as many devices as the limit allows (4504).
    TooManyDevices,
    /// So many devices of the user were forgotten lately that no further one is remembered.
    TooManyForgotten,
}

/// Why a send is refused for good. Kept in the dedup ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SendRefusal {
    /// The recipient's inbox is at its limit, or a drill makes the send fail as if it were.
    InboxFull,
    /// There is no such group.
    UnknownGroup,
    /// The sender is no member of the group.
    NotMember,
}

/// Why something with a group is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupRefusal {
    /// There is no such group.
    Unknown,
    /// There is one already, which is not the user's own.
    Exists,
    /// The group has as many members as the limit allows.
    Full,
    /// The user is in as many groups as the limit allows, or has still to read from ones that it left.
    TooMany,
}

/// Why a batch was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchRefusal {
    /// Applied before.
    Repeated,
    /// An earlier one is missing.
    Gap {
        /// The number that would be applied.
        expected: u64,
    },
    /// The generation is not the node's current one, or was declared down.
    Fenced,
}
