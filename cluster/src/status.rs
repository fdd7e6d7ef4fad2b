//! The cluster as one node sees it, for operators and metrics.

use openraft::async_runtime::watch::WatchReceiver;
use serde::Serialize;

use crate::handle::Inner;
use crate::liveness;
use crate::peer::LinkState;
use crate::state::{Limits, Totals};

/// What `/admin/status` shows.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// This node.
    pub node: String,
    /// Reasons why it takes no new clients; empty when ready.
    pub not_ready: Vec<&'static str>,
    /// Who leads, as this node knows.
    pub leader: Option<String>,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub role: String,
    /// Raft's term.
    pub term: u64,
    /// Index of the last entry in this node's log.
    pub last_log_index: u64,
    /// Index up to which this node knows the log to be committed.
    pub committed_index: u64,
    /// Index up to which this node has applied it.
    pub applied_index: u64,
    /// Index of this node's last checkpoint.
    pub checkpoint_index: u64,
    /// Milliseconds since a quorum acknowledged this leader; only on a leader.
    pub quorum_age_ms: Option<u64>,
    /// Milliseconds since this node last had word that a quorum stands behind its leader, or since
    /// its start: what it knows of others may be as old.
    pub quorum_silence_ms: u64,
    /// Sessions open on this node.
    pub local_sessions: usize,
    /// Pairs of a session of this node and a user whom it watches.
    pub watches: usize,
    /// The members and what is known of them.
    pub nodes: Vec<NodeStatus>,
    /// Sizes of the replicated state.
    pub totals: Totals,
    /// The replicated limits.
    pub limits: Limits,
    /// The replicated feature level.
    pub feature_level: u32,
    /// `closed`; or `open`: messages are stored, and delivered to nobody.
    pub breaker: &'static str,
}

/// One member.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// Its id.
    pub node: String,
    /// Where other nodes dial it.
    pub peer_addr: String,
    /// Where clients reach it; empty until it was up once.
    pub client_url: String,
    /// `voter` or `learner`.
    pub role: &'static str,
    /// Whether its generation is up.
    pub up: bool,
    /// Its generation, 0 when down.
    pub generation: u64,
    /// Boots of its data directory.
    pub boots: u64,
    /// Sessions registered on it.
    pub sessions: u64,
    /// Our link to it: `self`, `connected`, `connecting`, `down` or `refused`.
    pub link: &'static str,
}

impl Status {
    pub(crate) fn of(inner: &Inner, not_ready: Vec<&'static str>) -> Self {
        let metrics = inner.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let links = inner.peers.links();
        let local_sessions = inner.router.sessions();
        let state = inner.state();
        let link_to = |node| {
            let link = links.iter().find(|link| link.node == node);
            match link.map(|link| &link.state) {
                _ if node == inner.me => "self",
                Some(LinkState::Connected) => "connected",
                Some(LinkState::Down { refused: true, .. }) => "refused",
                Some(LinkState::Down { .. }) => "down",
                Some(LinkState::Connecting) | None => "connecting",
            }
        };
        let voters: Vec<_> = membership.voter_ids().collect();
        let nodes = membership.nodes().map(|(&node, member)| {
            let record = state.node(node);
            let generation = record.and_then(|record| record.generation);
            NodeStatus {
                node: node.to_string(),
                peer_addr: member.peer_addr.clone(),
                client_url: record.map(|record| record.client_url.clone()).unwrap_or_default(),
                role: if voters.contains(&node) { "voter" } else { "learner" },
                up: generation.is_some(),
                generation: generation.map_or(0, |generation| generation.0),
                boots: record.map_or(0, |record| record.boot.count),
                sessions: record.map_or(0, |record| record.sessions),
                link: link_to(node),
            }
        });
        Self {
            node: inner.me.to_string(),
            not_ready,
            leader: metrics.current_leader.map(|leader| leader.to_string()),
            role: format!("{:?}", metrics.state).to_lowercase(),
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.local_committed.map_or(0, |at| at.index),
            applied_index: metrics.last_applied.map_or(0, |at| at.index),
            checkpoint_index: metrics.snapshot.map_or(0, |at| at.index),
            quorum_age_ms: liveness::quorum_age(inner).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            quorum_silence_ms: u64::try_from(inner.quorum.silence().as_millis()).unwrap_or(u64::MAX),
            local_sessions,
            watches: inner.router.desk.pairs(),
            nodes: nodes.collect(),
            totals: state.totals(),
            limits: state.limits().clone(),
            feature_level: state.feature_level(),
            breaker: if state.breaker_open() { "open" } else { "closed" },
        }
    }
}
