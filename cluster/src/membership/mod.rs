//! Who is in the cluster: joining, growing to the wanted number of voters, leaving, and declaring
//! silent nodes down.
//!
//! Invariant: the set of voters changes one step at a time, only by the leader, only to nodes that
//! have caught up; a dead voter is replaced only by an operator's command.

pub mod addresses;
pub mod admin;
pub mod join;
pub mod leader;

use std::collections::{BTreeMap, BTreeSet};

use openraft::async_runtime::watch::WatchReceiver;

use crate::handle::Inner;
use crate::id::NodeId;

/// The membership as this node's log has it.
pub(crate) struct View {
    pub voters: BTreeSet<NodeId>,
    /// Members' peer addresses, learners included.
    pub addresses: BTreeMap<NodeId, String>,
}

/// Whether `node` is in the cluster, as a voter or a learner, as this node's log has it.
pub(crate) fn is_member(inner: &Inner, node: NodeId) -> bool {
    inner.raft.server_metrics().borrow_watched().membership_config.membership().get_node(&node).is_some()
}

impl View {
    pub fn of(inner: &Inner) -> Self {
        let metrics = inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        Self {
            voters: membership.voter_ids().collect(),
            addresses: membership.nodes().map(|(id, member)| (*id, member.peer_addr.clone())).collect(),
        }
    }
}
