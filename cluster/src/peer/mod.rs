//! Links between nodes: mutually authenticated, pipelined, bounded.
//!
//! Each node dials each other one, so there is one link per ordered pair: requests go out on the
//! link that one dialed, answers come back on it. Invariants: every request ends at its deadline at
//! the latest; a dead link fails all that waits for it at once; every queue has a limit in number
//! and in bytes; requests of one kind leave in the order of the calls, and [`Kind::APPEND`]s are
//! handled in the order they came.
//!
//! The codecs ([`frame`], [`handshake`]) are pure; the rest is the shell around them.

mod acceptor;
mod caller;
mod dialer;
pub mod frame;
mod greet;
pub mod handshake;
pub mod limits;
mod outbox;
mod peers;
mod secret;
mod serve;
mod stop;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wire;

use async_trait::async_trait;
use bytes::Bytes;

pub use peers::Peers;
pub use secret::Secret;

use crate::env::clock::Instant;
use crate::id::NodeId;

/// What a request is about. The links carry any kind; only [`Kind::APPEND`] is special to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// Raft: append entries, heartbeats included. Handled in the order of arrival.
    pub const APPEND: Self = Self(1);
    /// Raft: request for a vote.
    pub const VOTE: Self = Self(2);
    /// Raft: request for a pre-vote.
    pub const PRE_VOTE: Self = Self(3);
    /// Raft: a piece of a snapshot.
    pub const SNAPSHOT: Self = Self(4);
    /// Raft: take over leadership.
    pub const TRANSFER: Self = Self(5);
    /// A command to propose, for the leader.
    pub const PROPOSE: Self = Self(16);
    /// A node's sign of life, for the leader.
    pub const REPORT: Self = Self(17);
    /// A node wants to become a member.
    pub const JOIN: Self = Self(18);
    /// An operator's command, for the leader.
    pub const ADMIN: Self = Self(20);
    /// A recipient has acknowledged a message, for its sender's node.
    pub const DELIVERED: Self = Self(19);
    /// Somebody types, or has read a message.
    pub const SIGNAL: Self = Self(21);
}

/// Answers what other nodes ask.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request of an authenticated node; for a one-way frame the answer is dropped.
    ///
    /// Handlers of one link run concurrently. Those of [`Kind::APPEND`] are *started* in the order
    /// of arrival: each runs to its first wait before the next one starts. A handler is not
    /// cancelled when its link or its requester's patience ends.
    ///
    /// # Errors
    /// A reason, which the requester gets as [`PeerError::Remote`].
    async fn handle(&self, from: NodeId, kind: Kind, body: Bytes) -> Result<Bytes, String>;
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No address is known for the node. Nothing was sent.
    #[error("node {0} is not known")]
    Unknown(NodeId),
    /// There is no link at this time. Nothing was sent.
    #[error("no link to the node")]
    Down,
    /// The deadline passed first. The request may have been handled, or still be.
    #[error("no answer in time")]
    Deadline,
    /// The link ended. The request may have been handled, or still be.
    #[error("the link ended before the answer came")]
    Closed,
    /// The other node's handler refused, for this reason.
    #[error("{0}")]
    Remote(String),
    /// The handshake of a one-off link failed, for this reason. Nothing was sent.
    #[error("{0}")]
    Refused(String),
    /// The body of this many bytes is above [`frame::MAX_PAYLOAD`]. Nothing was sent.
    #[error("a request of {0} bytes is above the cap")]
    TooLarge(usize),
}

/// What is known of the way to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Established.
    Connected,
    /// Not tried to its end yet.
    Connecting,
    /// Lost or never established; dialed again and again.
    Down {
        /// Whether the last attempt was refused by the host: nothing listens there, so the
        /// process is gone. Anything else (hanging, reset, failed handshake) is no such evidence.
        refused: bool,
        /// Since when it is just so. If `refused`: the first refusal of an unbroken row that lasts
        /// until now, and thus later than anything the process that listened there ever sent.
        since: Instant,
    },
}

/// The link to one node, for status and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkView {
    /// The node dialed.
    pub node: NodeId,
    /// Where.
    pub addr: String,
    /// How it stands.
    pub state: LinkState,
    /// Frames not yet handed to the system.
    pub queued: usize,
    /// Requests without an answer.
    pub pending: usize,
}
