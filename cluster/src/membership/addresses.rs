//! Keeps links to exactly the members of the cluster.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;

use super::View;
use crate::handle::Inner;

/// Runs for the life of the node.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut metrics = inner.raft.server_metrics();
    let mut known = None;
    loop {
        let mut addresses = View::of(&inner).addresses;
        addresses.remove(&inner.me);
        if known.as_ref() != Some(&addresses) {
            inner.peers.set_addresses(addresses.clone());
            known = Some(addresses);
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
