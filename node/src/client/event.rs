//! What a client tells its application.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use cluster::id::MessageId;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use crate::protocol::{ErrorCode, GapReason, MAX_KEY_BYTES};

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Stored on a quorum under this id: it will be delivered.
    Stored(MessageId),
    /// Done, of something with a group, or a device that was to be forgotten.
    Done,
    /// Refused: nobody has seen it or will.
    Refused {
        /// Why.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// Not sent: its frame is larger than the node takes, in bytes.
    TooLarge {
        /// The largest frame that the node takes.
        frame_bytes: usize,
    },
    /// It was sent, but no answer came before the client gave up or was closed: it may be delivered
    /// or not.
    Unknown,
    /// It was never sent: nobody has it.
    NotSent,
}

/// The future of one message's [`Fate`]. May be dropped; the message goes its way all the same.
#[derive(Debug)]
pub struct Receipt(pub(super) oneshot::Receiver<Fate>);

impl Future for Receipt {
    type Output = Fate;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Fate> {
        // The sending half answers whatever happens, unless the whole runtime goes down around it.
        Pin::new(&mut self.0).poll(cx).map(|fate| fate.unwrap_or(Fate::Unknown))
    }
}

/// A message for this device. One that another device of its own user sent to somebody else comes as a copy:
/// `from` is its user then, and `to` is not.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Its place in this device's order; grows, not by ones.
    pub seq: u64,
    /// Its id.
    pub mid: MessageId,
    /// The sender.
    pub from: String,
    /// The sender's device.
    pub device: String,
    /// The recipient, of a direct message.
    pub to: Option<String>,
    /// The group, of a group's.
    pub group: Option<String>,
    /// When it reached its first node, ms since the Unix epoch.
    pub ts_ms: u64,
    /// The JSON that its sender wrote.
    pub body: Box<RawValue>,
}

/// What waits in the inbox.
#[derive(Debug)]
pub(super) enum Item {
    Message(Incoming),
    Gap { seq: u64, reason: GapReason, lost: u64 },
}

/// What a client tells its application.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message, once and in order.
    Message(Incoming),
    /// This device missed messages.
    Gap {
        /// The place of the last one missed.
        seq: u64,
        /// Why.
        reason: GapReason,
        /// How many.
        lost: u64,
    },
    /// The first of the recipient's devices has a message of ours.
    Delivered {
        /// The message.
        mid: MessageId,
        /// The recipient.
        by: String,
    },
    /// Somebody is writing to us.
    Typing {
        /// Who.
        from: String,
    },
    /// Somebody has read a message; on another device of ours, we have.
    Read {
        /// Who.
        by: String,
        /// The message.
        mid: MessageId,
    },
    /// Somebody whom we watch is there, or not. Told again now and then though nothing has changed.
    Presence {
        /// Who.
        user: String,
        /// With how many devices; 0: offline.
        devices: u32,
        /// Grows with what changes, whatever node tells it.
        version: u64,
    },
    /// These are not watched.
    WatchRefused {
        /// Who.
        users: Vec<String>,
        /// Why: `BadRecipient` where a name is none.
        code: ErrorCode,
    },
    /// The node did not take the renewed token: the session ends with the old one, and the client then comes with
    /// what [`Tokens`](super::Tokens) give.
    RefreshRefused {
        /// Why, for people.
        message: String,
    },
    /// A session stands.
    Connected {
        /// Whose it is, as the token says.
        user: String,
        /// The node that serves it.
        node: String,
        /// Its address, `host:port`.
        address: String,
        /// The session's name.
        session: String,
    },
    /// The session is gone, or could not be had; the client goes on trying.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The last event, when all else was told: the client has ended.
    Stopped(Stopped),
}

/// Why a client ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The application closed it.
    #[error("closed")]
    Closed,
    /// The node closed the connection with a code that says not to come back.
    #[error("the node ended the session: {code} {reason}")]
    Refused {
        /// The close code.
        code: u16,
        /// What the node said.
        reason: String,
    },
}

/// Why [`Client::send`] took no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The client has ended.
    #[error("the client has ended")]
    Stopped,
    /// [`Client::try_send`] found the queue full.
    #[error("too many messages wait for their answer")]
    Full,
    /// A key has 1 to 64 bytes.
    #[error("a key has 1 to {MAX_KEY_BYTES} bytes")]
    BadKey,
    /// The body is not JSON.
    #[error("the body cannot be written as JSON")]
    BadBody,
}
