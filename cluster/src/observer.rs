//! What the cluster counts, for whoever shows it.

use std::time::Duration;

use crate::id::{GroupId, MessageId, UserId};
use crate::signal::News;
use crate::trace::TraceContext;

/// Whom a message was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Audience {
    /// One user.
    Direct,
    /// The members of a group.
    Group,
}

/// A message that a recipient's device has acknowledged first.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// The message.
    pub mid: &'a MessageId,
    /// The recipient.
    pub by: &'a UserId,
    /// The group that it was written to, if it was one.
    pub group: Option<&'a GroupId>,
    /// Its send, if it is traced.
    pub trace: Option<&'a TraceContext>,
}

impl Delivery<'_> {
    /// Whom it was for.
    #[must_use]
    pub fn audience(&self) -> Audience {
        if self.group.is_some() { Audience::Group } else { Audience::Direct }
    }
}

/// Why a device is remembered no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Forgotten {
    /// Another device of its user asked for it.
    Request,
    /// It was an ephemeral one, and said goodbye.
    Left,
    /// It was away for too long.
    Age,
}

/// Kinds of reasons why a connection to the port for nodes comes to nothing: no valid certificate or no TLS;
/// another secret, cluster or version; silence, or an early end.
pub const PEER_REFUSALS: [&str; 3] = ["tls", "handshake", "connection"];

/// Told of what happens, as it happens, from any thread. Must not block.
pub trait Observer: Send + Sync + 'static {
    /// Devices of sessions on this node acknowledged `count` messages for the first time.
    fn delivered(&self, _audience: Audience, _count: u64) {}
    /// `count` messages will not reach a device of `recipient`, where they are of one, or were refused.
    fn failed(&self, _audience: Audience, _reason: &'static str, _count: u64, _recipient: Option<&UserId>) {}
    /// `count` sends were repeats of stored messages.
    fn duplicate(&self, _count: u64) {}
    /// From a send's arrival to a recipient device's first acknowledgement.
    fn delivery_latency(&self, _delivery: &Delivery<'_>, _latency: Duration) {}
    /// `count` messages that clients of this node sent waited for an absent device.
    fn delivered_late(&self, _count: u64) {}
    /// A device is remembered no more.
    fn forgotten(&self, _why: Forgotten) {}
    /// A session of this node had no room for somebody's typing or reading; or there was no link to another node with
    /// such a session, or no room on it.
    fn signal_dropped(&self, _news: News) {}
    /// Sessions of this node were told `count` times who is there.
    fn presence(&self, _count: u64) {}
    /// The term has grown by `count`.
    fn elections(&self, _count: u64) {}
    /// A checkpoint of this node's state took so long to write.
    fn checkpoint(&self, _took: Duration) {}
    /// A connection to the port for nodes was turned away, for a reason of this kind: see [`PEER_REFUSALS`].
    fn peer_refused(&self, _kind: &'static str) {}
    /// From cutting a batch of `ops` operations to applying it here.
    fn proposal(&self, _ops: usize, _latency: Duration) {}
}

/// Counts nothing.
pub struct NoObserver;

impl Observer for NoObserver {}
