//! What the cluster is like at a moment, by its nodes' word: what faults and operators go by, and whether it has
//! mended.

use cluster::Cluster;
use cluster::status::{NodeStatus, Status};

use super::model::Situation;
use crate::world::World;

/// Who leads, of all who think so the one with the highest term, and what it says.
pub fn leader(world: &World) -> Option<(usize, Status)> {
    let all = (0..world.len()).filter_map(|n| Some((n, world.ask(n, Cluster::status)?)));
    all.filter(|(_, status)| status.role == "leader").max_by_key(|(_, status)| status.term)
}

/// The cluster as a fault on machine `hit` finds it.
pub fn situation(world: &World, hit: usize) -> Situation {
    let leader = leader(world);
    let nodes = leader.map(|(_, status)| status.nodes).unwrap_or_default();
    let voters: Vec<&NodeStatus> = nodes.iter().filter(|node| node.role == "voter").collect();
    let machine = |voter: &NodeStatus| (0..world.len()).find(|&n| world.identity(n).as_ref() == Some(&voter.node));
    let is_lost = |voter: &NodeStatus| machine(voter).is_none_or(|n| n != hit && world.machine(n).disk.is_spoilt());
    let hits_voter = voters.iter().any(|voter| machine(voter) == Some(hit));
    let spoilt = voters.iter().filter(|voter| is_lost(voter)).count();
    Situation {
        voters: voters.len(),
        spoilt,
        replacing: world.is_replacing(),
        hits_voter,
        calm: is_calm(world, &world.wanted()),
    }
}

/// Whether these machines are up, ready and at the same entry, one of them leading.
pub fn is_calm(world: &World, machines: &[usize]) -> bool {
    let ask = |&n: &usize| world.ask(n, |cluster| (cluster.not_ready().is_empty(), cluster.status()));
    let all: Vec<_> = machines.iter().map(ask).collect();
    let first = all.iter().flatten().map(|(_, status)| status.last_log_index).next();
    all.iter().flatten().any(|(_, status)| status.role == "leader")
        && all
            .iter()
            .all(|one| one.as_ref().is_some_and(|(ready, status)| *ready && Some(status.last_log_index) == first))
}

/// The liveness oracle: what the cluster has not mended yet. Nodes that are not ready, replicas that are not at one
/// entry, members that should not be there, a breaker that is open.
pub fn unmended(world: &World) -> Vec<String> {
    let mut missing = Vec::new();
    let mut at = Vec::new();
    let wanted = world.wanted();
    for &n in &wanted {
        let name = &world.machine(n).name;
        match world.ask(n, |cluster| (cluster.not_ready(), cluster.applied())) {
            None => missing.push(format!("{name} has not started")),
            Some((reasons, index)) => {
                at.push(index);
                if !reasons.is_empty() {
                    missing.push(format!("{name} is not ready: {reasons:?}"));
                }
            }
        }
    }
    if at.iter().any(|&index| index != at[0]) {
        missing.push(format!("the replicas are at the entries {at:?}"));
    }
    if let Some((n, status)) = leader(world) {
        if status.breaker != "closed" {
            missing.push("the breaker is open".to_owned());
        }
        let mut members: Vec<_> = status.nodes.into_iter().map(|node| node.node).collect();
        let mut identities: Vec<_> = wanted.iter().filter_map(|&n| world.identity(n)).collect();
        members.sort_unstable();
        identities.sort_unstable();
        if members != identities {
            let name = &world.machine(n).name;
            missing.push(format!("the members are {members:?} says {name}, the nodes that run {identities:?}"));
        }
    }
    missing
}
