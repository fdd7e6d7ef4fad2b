//! The types that openraft is instantiated with.
//!
//! Invariant: a command is encoded once, at its origin, and travels as bytes from there to where it
//! is applied; neither the log nor the links look inside.

use std::fmt;

use bytes::Bytes;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use super::runtime::ClockRuntime;
use crate::id::NodeId;

/// One encoded [`crate::state::Command`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What the proposer of an entry is told once it was applied: nothing. Outcomes are learned by
/// applying, on the origin, so that they do not depend on an answer that may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Applied(pub ());

/// A member of the cluster, as the membership entries of the log describe it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// Where the other nodes reach it (`host:port`).
    pub peer_addr: String,
}

/// Only for openraft's own test suites, which number nodes from 0. Real ids are drawn at random.
impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

openraft::declare_raft_types!(
    /// The instantiation.
    pub TypeConfig:
        D = Payload,
        R = Applied,
        NodeId = NodeId,
        Node = Member,
        AsyncRuntime = ClockRuntime,
);

/// A leader's identity, as log ids carry it.
pub type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, NodeId>;
/// A log position with the leader that made it.
pub type LogId = openraft::LogId<LeaderId>;
/// One entry of the log.
pub type Entry = openraft::Entry<LeaderId, EntryPayload<Payload, NodeId, Member>>;
/// A vote for a candidate, or the commitment to an elected leader.
pub type Vote = openraft::Vote<LeaderId>;
/// The membership in force and where in the log it came from.
pub type StoredMembership = openraft::StoredMembership<LeaderId, NodeId, Member>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::SnapshotMeta<LeaderId, NodeId, Member>;
