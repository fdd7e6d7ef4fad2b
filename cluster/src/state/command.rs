//! What the log says: the only inputs of the replicated state machine.
//!
//! Invariant: every node that applies a command understands all of it. So the encoding is strict,
//! and a new command or field is proposed only once the replicated feature level allows it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::limits::{GroupLimits, Limits};
use crate::id::{Boot, DeviceId, Epoch, Generation, GroupId, MessageId, NodeId, Pos, UserId};
use crate::trace::TraceContext;

/// The highest feature level this build understands.
pub const FEATURE_LEVEL: u32 = 7;

/// From this level on there are groups: [`Op::GroupSend`], [`Op::Group`], [`Command::SetGroupLimits`].
pub const GROUPS_LEVEL: u32 = 2;

/// From this level on operators have a breaker, and can make sends fail: [`Command::SetBreaker`], [`Op::Refuse`].
pub const BREAKER_LEVEL: u32 = 3;

/// From this level on tokens can be revoked: [`Command::Revoke`].
pub const REVOCATION_LEVEL: u32 = 3;

/// From this level on a user's other devices get copies of direct messages: what [`Op::Send`] means.
pub const COPIES_LEVEL: u32 = 4;
/// From this level on messages may be traced: [`Op::TracedSend`], [`Op::TracedGroupSend`].
pub const TRACES_LEVEL: u32 = 4;

/// From this level on a revocation ends the user's sessions: what [`Command::Revoke`] means.
pub const ENDING_LEVEL: u32 = 4;

/// From this level on only a session that lives has devices forgotten: [`Op::ForgetBy`].
pub const FORGET_LEVEL: u32 = 5;

/// From this level on there is an end to users without a device for whom messages wait: what [`Op::Send`] means.
pub const ABSENT_LEVEL: u32 = 5;

/// From this level on a log of many large messages loses an eighth at its limit, not all, and what waits for absent users is
/// bounded for each sender: what [`Op::Send`] and [`Op::GroupSend`] mean.
pub const SHARES_LEVEL: u32 = 6;

/// From this level on no session goes on over its device's forgetting: what [`Op::Register`] finds then.
pub const OUTCASTS_LEVEL: u32 = 7;

/// First byte of every encoded command.
const FORMAT: u8 = 1;

/// One log entry's payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// What one node's sessions want, in order.
    Batch(Batch),
    /// A node starts a new incarnation; its previous one's sessions end.
    NodeUp(NodeUp),
    /// A generation is gone: its sessions end, and its later batches are refused.
    NodeDown {
        /// The node.
        node: NodeId,
        /// The generation that fell silent; the command does nothing if it is not the current one.
        generation: Generation,
    },
    /// A node left the cluster for good.
    NodeForgotten {
        /// The node.
        node: NodeId,
    },
    /// The leader's monotonic clock went on. Only this moves replicated time.
    Tick {
        /// By how much; at most [`Command::MAX_TICK_MS`], more is taken as that.
        advance_ms: u64,
    },
    /// Replaces the replicated limits.
    SetLimits(Limits),
    /// Raises the feature level; lower or equal ones are ignored.
    SetFeatureLevel(u32),
    /// Replaces the replicated limits of groups. From [`GROUPS_LEVEL`] on.
    SetGroupLimits(GroupLimits),
    /// Opens or closes the breaker: while it is open messages are stored, and delivered to nobody. From
    /// [`BREAKER_LEVEL`] on.
    SetBreaker {
        /// Whether it is open from here on.
        open: bool,
    },
    /// A user's tokens that were issued before a time count no more. From [`REVOCATION_LEVEL`] on; from
    /// [`ENDING_LEVEL`] on the user's sessions end here, and those by other tokens begin again.
    Revoke {
        /// The user.
        user: UserId,
        /// The time, ms since the Unix epoch, by the clock of whoever issues tokens.
        before_ms: u64,
    },
}

/// One node's batch. Batches of a generation are numbered from 1 and applied exactly once, in
/// order: a repeated one is dropped, one after a gap is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The origin.
    pub node: NodeId,
    /// The origin's incarnation; a batch of another one is refused.
    pub generation: Generation,
    /// Number within the generation, from 1.
    pub seq: u64,
    /// At most [`Pos::MAX_OPS`].
    pub ops: Vec<Op>,
}

/// One step of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Begins a session.
    Register(Register),
    /// Stores a message. From [`COPIES_LEVEL`] on for the sender's other devices too.
    Send(Send),
    /// Moves a device's cursor to `upto`, under the session's epoch.
    Ack {
        /// The session.
        epoch: Epoch,
        /// All up to here was received.
        upto: Pos,
    },
    /// Ends a session; nothing if it is not the device's current one.
    Close {
        /// The session.
        epoch: Epoch,
        /// The client said goodbye (an ephemeral device is forgotten now), or the connection was lost.
        clean: bool,
    },
    /// Forgets a device of a user, whoever asks; its live session ends. From [`FORGET_LEVEL`] on [`Op::ForgetBy`] is
    /// proposed instead.
    Forget {
        /// The user.
        user: UserId,
        /// The device.
        device: DeviceId,
    },
    /// Stores a message to a group. From [`GROUPS_LEVEL`] on.
    GroupSend(GroupSend),
    /// Makes, joins or leaves a group. From [`GROUPS_LEVEL`] on.
    Group(GroupOp),
    /// Refuses a direct send as a full inbox would, because a drill wants so. From [`BREAKER_LEVEL`] on.
    Refuse {
        /// The sender's session.
        epoch: Epoch,
        /// The message's id.
        mid: MessageId,
    },
    /// As [`Op::Send`], of a message that is traced. From [`TRACES_LEVEL`] on.
    TracedSend(Send, TraceContext),
    /// As [`Op::GroupSend`], of a message that is traced. From [`TRACES_LEVEL`] on.
    TracedGroupSend(GroupSend, TraceContext),
    /// Forgets a device of the session's user; its live session ends. From [`FORGET_LEVEL`] on.
    ForgetBy {
        /// The session that asks.
        epoch: Epoch,
        /// The device.
        device: DeviceId,
    },
}

/// Begins a session: compare-and-set on the device's last epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The user.
    pub user: UserId,
    /// The user's device.
    pub device: DeviceId,
    /// Hash of the client instance's name: an older attempt of the same instance is refused.
    pub instance: u64,
    /// The client's attempt number.
    pub attempt: u64,
    /// Forgotten at a clean close, or soon after the connection was lost.
    pub ephemeral: bool,
    /// The device's last epoch as the origin saw it; [`Pos::ZERO`] for none.
    pub expect: Epoch,
}

/// Stores a direct message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    /// The sender's session.
    pub epoch: Epoch,
    /// The message's id.
    pub mid: MessageId,
    /// The recipient.
    pub to: UserId,
    /// The origin's wall clock when the frame arrived, ms since the Unix epoch; shown, never used.
    pub ts_ms: u64,
    /// The JSON text as the client sent it.
    pub body: Bytes,
}

/// Stores a message to a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSend {
    /// The sender's session.
    pub epoch: Epoch,
    /// The message's id.
    pub mid: MessageId,
    /// The group.
    pub group: GroupId,
    /// As in [`Send`].
    pub ts_ms: u64,
    /// As in [`Send`].
    pub body: Bytes,
}

/// What a session's user does with a group. It has no key: doing it twice is as doing it once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOp {
    /// The session.
    pub epoch: Epoch,
    /// The group.
    pub group: GroupId,
    /// What to do.
    pub act: GroupAct,
}

/// See [`GroupOp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupAct {
    /// Make the group and become its first member.
    Create,
    /// Become a member.
    Join,
    /// Be a member no more.
    Leave,
}

/// A node announces an incarnation of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUp {
    /// The node.
    pub node: NodeId,
    /// Its boot; an older one than the state knows is a restored copy, and refused.
    pub boot: Boot,
    /// Counts from 1 within a boot.
    pub incarnation: u32,
    /// Where clients reach it, for `status` and `go_away`.
    pub client_url: String,
    /// The highest feature level its build understands.
    pub feature_level: u32,
}

/// An entry that this build cannot read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer build.
    #[error(
        "the log holds a command of format {0}, this build reads format {FORMAT}: run the newer build on this node"
    )]
    Format(u8),
    /// All nodes of the cluster knew more.
    #[error(
        "the cluster is at feature level {0}, this build knows levels up to {FEATURE_LEVEL}: run the newer build on this node"
    )]
    Level(u32),
    /// Neither known nor well-formed.
    #[error("the log holds a command that this build cannot read ({0}): run the newer build on this node")]
    Malformed(String),
}

impl Command {
    /// Most that one tick moves replicated time, in milliseconds.
    pub const MAX_TICK_MS: u64 = 60_000;

    /// The entry's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let bytes = postcard::to_extend(self, vec![FORMAT]).expect("encoding into memory cannot fail");
        Bytes::from(bytes)
    }

    /// Reads an entry's bytes; trailing bytes are malformed.
    ///
    /// # Errors
    /// When they are not exactly one command that this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.split_first() {
            Some((&FORMAT, rest)) => match postcard::take_from_bytes(rest) {
                Ok((Self::Batch(batch), [])) if batch.ops.len() > Pos::MAX_OPS => {
                    Err(DecodeError::Malformed(format!("a batch of {} operations", batch.ops.len())))
                }
                // What the other replicas make of later entries this one would not.
                Ok((Self::SetFeatureLevel(level), [])) if level > FEATURE_LEVEL => Err(DecodeError::Level(level)),
                Ok((command, [])) => Ok(command),
                Ok(_) => Err(DecodeError::Malformed("trailing bytes".into())),
                Err(error) => Err(DecodeError::Malformed(error.to_string())),
            },
            Some((&format, _)) => Err(DecodeError::Format(format)),
            None => Err(DecodeError::Malformed("empty".into())),
        }
    }
}
