//! G5: the sessions that the replicas know are the sockets that exist.

use std::collections::{BTreeMap, HashMap};

use cluster::id::NodeId;

use super::History;
use crate::ledger::Device;
use crate::workload::STRANGER;

/// A session that the replicas know. They equal the reference, so one list stands for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Its epoch.
    pub epoch: u64,
    /// Whose.
    pub device: Device,
    /// Which client instance's.
    pub instance: u64,
    /// On which node.
    pub node: NodeId,
}

/// Phantoms, sockets that nobody knows, and sessions that are said to be elsewhere.
pub fn missing(history: &History, live: &[Live]) -> Vec<String> {
    let instances: HashMap<u64, u64> =
        history.facts.registered.iter().map(|registered| (registered.epoch, registered.instance)).collect();
    let machine = |node: NodeId| history.machines.iter().find(|(id, _)| *id == node).map(|(_, machine)| *machine);
    let ours = live.iter().filter(|live| !live.device.user.starts_with(STRANGER));
    let mut known: BTreeMap<&Device, &Live> = ours.map(|live| (&live.device, live)).collect();
    let mut missing = Vec::new();
    for (id, client) in history.book.clients.iter().enumerate() {
        let Some(session) = client.session() else { continue };
        let who = history.book.client(id);
        let Some(found) = known.remove(&client.device) else {
            missing.push(format!("G5: {who} is connected, and no replica knows"));
            continue;
        };
        let same = instances.get(&session.epoch) == Some(&found.instance);
        if !same || machine(found.node) != Some(session.node) {
            let there = machine(found.node).map_or("?".into(), |machine| format!("n{machine}"));
            missing.push(format!("G5: {who} is connected to n{}, and is said to be on {there}", session.node));
        }
    }
    missing.extend(known.into_values().map(|live| format!("G5: {} is said to be connected, and is not", live.device)));
    missing
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NODE, Scene, found, pos};
    use super::*;

    fn live() -> Vec<Live> {
        let live =
            |user, entry, instance| Live { epoch: pos(entry), device: Device::new(user, "a"), instance, node: NODE };
        vec![live("u", 1, 0), live("w", 2, 1)]
    }

    #[test]
    fn what_is_there_is_known() {
        assert_eq!(missing(&Scene::good().history(), &live()), Vec::<String>::new());
    }

    #[test]
    fn phantoms_and_unknown_sockets() {
        let mut scene = Scene::good();
        found(&missing(&scene.history(), &live()[1..]), "no replica knows");
        scene.book.clients[0].sessions[0].ended_at = Some(5);
        found(&missing(&scene.history(), &live()), "is said to be connected, and is not");
    }

    #[test]
    fn elsewhere() {
        let mut elsewhere = live();
        elsewhere[0].node = NodeId(9);
        found(&missing(&Scene::good().history(), &elsewhere), "is said to be on");
    }
}
