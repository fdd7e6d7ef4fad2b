//! Empties a node of its clients, so that its end interrupts nobody.
//!
//! Order: it takes no new clients, leadership moves, then each client is told where to go and within
//! which time. Their times are spread, so that the others take them in at a steady rate; a client on
//! our SDK stands on its new node before it leaves this one. A drain has no way back but a restart.

use std::sync::Arc;
use std::time::Duration;

use cluster::Cluster;
use cluster::env::clock;
use tokio::sync::OnceCell;

use crate::session::Connections;

/// The first clients' time to go, ms: a handshake fits into it many times.
const FIRST_MS: u64 = 500;
/// Clients whose time ends in one millisecond. Each goes somewhere between 40 and 80 % of its time, so up to
/// 1.73 (10 ln 2 / 4) times as many arrive in one: fewer than the four that one other node admits.
const PER_MS: usize = 2;
/// The last client's time after the first one's, ms: with more clients, more go at a time.
const LONGEST_MS: usize = 60_000;
/// For those who go at the very end of their time, to arrive elsewhere.
const GRACE: Duration = Duration::from_secs(2);

/// No other node takes clients.
struct Nowhere;

/// The one drain of a node's life.
pub struct Drain {
    cluster: Cluster,
    connections: Arc<Connections>,
    done: OnceCell<()>,
}

impl Drain {
    /// Not begun.
    #[must_use]
    pub fn new(cluster: Cluster, connections: Arc<Connections>) -> Self {
        Self { cluster, connections, done: OnceCell::new() }
    }

    /// Drains the node; returns when its clients have left or have had their time. Whoever asks
    /// again waits for the same end. Where there is nowhere to go, clients stay, and who asks again tries again.
    pub async fn run(&self) {
        let _ = self.done.get_or_try_init(|| self.send_away()).await;
    }

    async fn send_away(&self) -> Result<(), Nowhere> {
        self.cluster.drain().await;
        let urls: Vec<Arc<str>> = self.cluster.elsewhere().into_iter().map(Arc::from).collect();
        if urls.is_empty() {
            return Err(Nowhere);
        }
        let connections = self.connections.len();
        tracing::info!(connections, "draining: clients are sent to other nodes");
        let last_ms = self.connections.leave(&urls, FIRST_MS, PER_MS.max(connections.div_ceil(LONGEST_MS)));
        let limit = Duration::from_millis(last_ms) + GRACE;
        if clock::timeout(limit, self.connections.emptied()).await.is_err() {
            tracing::warn!(
                connections = self.connections.len(),
                "ending the connections of clients that did not leave"
            );
            self.connections.end(FIRST_MS);
        }
        Ok(())
    }
}
