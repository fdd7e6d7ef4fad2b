//! What a node must be told to take part in a cluster.

use crate::peer::Secret;
use crate::state::Limits;

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
}
