//! A session, as the gateway sees it: what it asks and what it is told. Never Raft itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::env::clock::Instant;
use crate::id::{DeviceId, Epoch, GroupId, MessageId, Pos, UserId};
use crate::signal::News;
use crate::state::{Destination, GapReason, GroupAct, GroupRefusal, Message, SendRefusal};
use crate::trace::TraceContext;

/// Who connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSpec {
    /// The user.
    pub user: UserId,
    /// The user's device.
    pub device: DeviceId,
    /// Hash of the client instance's name.
    pub instance: u64,
    /// The instance's attempt number.
    pub attempt: u64,
    /// The device is forgotten when its session ends.
    pub ephemeral: bool,
}

/// A message to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its id.
    pub mid: MessageId,
    /// The recipient, or recipients.
    pub to: Destination,
    /// The wall clock at its arrival, ms since the Unix epoch.
    pub ts_ms: u64,
    /// The JSON text as the client sent it.
    pub body: Bytes,
    /// When its frame arrived, for the latency.
    pub arrived: Instant,
    /// Its send's place in a trace, if it is traced.
    pub trace: Option<TraceContext>,
}

/// What a session asks of the log, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Answered by [`Event::Sent`].
    Send(Outgoing),
    /// A direct send that is to fail, for a drill: nobody sees it, unless it is a repeat of one that was stored.
    /// Answered by [`Event::Sent`].
    Refuse(MessageId),
    /// Answered by [`Event::Done`].
    Group {
        /// The group.
        group: GroupId,
        /// What to do.
        act: GroupAct,
    },
    /// Forgets another device of the session's user. Answered by [`Event::Done`].
    Forget(DeviceId),
}

/// A part of a group's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersPage {
    /// In the order of their names.
    pub members: Vec<UserId>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// Why a group's members are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembersRefusal {
    /// There is no such group.
    Unknown,
    /// Only members may know.
    NotMember,
}

/// What a session is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The session lives. The first time, `welcome` the client; again after [`Event::Suspended`], go on as before
    /// once it is confirmed.
    Registered {
        /// Its epoch.
        epoch: Epoch,
    },
    /// Not live for now: deliver nothing until registered again.
    Suspended,
    /// There will be no session. Terminal.
    Refused(Refusal),
    /// A newer session of the device took over. Terminal.
    Superseded,
    /// Tokens of the session's user that were issued before this time count no more.
    Revoked {
        /// The time, ms since the Unix epoch.
        before_ms: u64,
    },
    /// This node cannot reach the quorum. Terminal.
    Unavailable,
    /// The log has decided on a traced send, whose [`Event::Sent`] comes next.
    Decided {
        /// When it was first proposed under this generation.
        proposed: Instant,
        /// When this replica applied it.
        applied: Instant,
    },
    /// The answer to one send; answers come in the order of the requests.
    Sent {
        /// The send's token.
        token: u64,
        /// The message's id, or why it was refused for good.
        result: Result<MessageId, SendRefusal>,
    },
    /// The answer to any other request.
    Done {
        /// The request's token.
        token: u64,
        /// Why it was refused for good.
        result: Result<(), GroupRefusal>,
    },
    /// There may be something to read. Coalesced.
    Inbox,
    /// Somebody whom this session watches has come or gone: see `Session::presences`. Coalesced.
    Presence,
    /// Somebody types, or has read a message. News, not a promise.
    Signal {
        /// Who.
        from: UserId,
        /// What.
        news: News,
    },
    /// The first of a recipient's devices has a message of this session's device.
    Delivered {
        /// The message.
        mid: MessageId,
        /// The recipient.
        by: UserId,
        /// From its send's arrival to that; none where it waited for an absent device, or is not known any more.
        latency: Option<Duration>,
        /// Its send, if it is traced.
        trace: Option<Box<TraceContext>>,
    },
}

/// Why a session was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A newer attempt of the same client is already there (4005).
    OlderAttempt,
    /// The user has too many devices (4504).
    TooManyDevices,
    /// So many devices of the user were forgotten lately that no further one is remembered: later there is room (1013).
    TooManyForgotten,
}

/// One thing read from an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// A message.
    Message {
        /// What is known of it.
        message: Arc<Message>,
        /// Its body, from wherever this replica keeps it.
        body: Bytes,
    },
    /// The device missed messages.
    Gap {
        /// Acknowledged like a message's.
        seq: Pos,
        /// Why.
        reason: GapReason,
        /// How many.
        lost: u64,
    },
}

impl Delivery {
    /// The position to acknowledge.
    #[must_use]
    pub fn seq(&self) -> Pos {
        match self {
            Self::Message { message, .. } => message.pos,
            Self::Gap { seq, .. } => *seq,
        }
    }
}
