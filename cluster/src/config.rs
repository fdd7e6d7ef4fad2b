//! What a node must be told to take part in a cluster.

use crate::peer::Secret;
use crate::raft::CheckpointEvery;
use crate::state::{GroupLimits, Limits};

/// A node's part in the cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Where other nodes connect, `host:port`.
    pub peer_listen: String,
    /// What other nodes are told to dial, when it differs from `peer_listen`.
    pub peer_advertise: Option<String>,
    /// Where clients connect, told in `status` and `go_away`.
    pub client_url: String,
    /// Peer addresses of nodes that are, or may be, in the cluster already.
    pub join: Vec<String>,
    /// Begin a new cluster if this data directory is fresh and nobody at `join` has one.
    pub bootstrap: bool,
    /// What links between nodes authenticate with.
    pub secret: Secret,
    /// How many voters the cluster grows to by itself, 3 or 5; further nodes are learners.
    pub voters: usize,
    /// Replicated limits of a cluster that this node begins.
    pub limits: Limits,
    /// Replicated limits of groups, where this node is the first to lead a cluster that has them.
    pub groups: GroupLimits,
    /// The feature level that this node says to understand: [`crate::state::FEATURE_LEVEL`]. The simulator plays older builds.
    pub feature_level: u32,
    /// How this node keeps its log. The simulator makes it small, so that what is rare happens often.
    pub log: LogKeeping,
}

/// How much of the log a node keeps.
#[derive(Debug, Clone)]
pub struct LogKeeping {
    /// When the state is written down, so that the log before it is needed no more.
    pub checkpoint: CheckpointEvery,
    /// Entries kept behind a checkpoint for replicas that lag; who lags further is sent a checkpoint.
    pub kept_entries: u64,
    /// Bytes kept behind a checkpoint, about: entries differ in size a hundredfold, so their number
    /// alone bounds nothing.
    pub kept_bytes: u64,
}

impl Default for LogKeeping {
    fn default() -> Self {
        // Generous, so that a replica that was away for minutes needs no checkpoint sent.
        Self { checkpoint: CheckpointEvery::default(), kept_entries: 20_000, kept_bytes: 512 << 20 }
    }
}
