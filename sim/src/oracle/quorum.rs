//! Majorities.

use std::collections::BTreeSet;

use cluster::id::NodeId;

/// A membership's sets of voters: one, or two while it changes; each of them must agree.
pub type Config = Vec<BTreeSet<NodeId>>;

/// Whether those that count are a majority of every set. One whose name is not known yet may be any.
pub fn reached(config: &Config, counted: &[Option<NodeId>]) -> bool {
    config.iter().all(|voters| {
        let count = counted.iter().filter(|node| node.is_none_or(|node| voters.contains(&node))).count();
        count > voters.len() / 2
    })
}
