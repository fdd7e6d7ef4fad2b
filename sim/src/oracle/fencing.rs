//! G4: at most one live session per device; what a replaced client got was stored before the newer
//! one was registered, and it was told.

use std::collections::{BTreeMap, HashMap};

use super::facts::Registered;
use super::{History, Violation, safety};
use crate::ledger::{Client, Device};

/// When each client's last registration was superseded for good by another client's, by client.
fn superseded(history: &History) -> BTreeMap<usize, u64> {
    let mut by_device: HashMap<&Device, Vec<&Registered>> = HashMap::new();
    let mut instances: HashMap<u64, u64> = HashMap::new();
    for registered in &history.facts.registered {
        by_device.entry(&registered.device).or_default().push(registered);
        instances.insert(registered.epoch, registered.instance);
    }
    let mut taken = BTreeMap::new();
    for (id, client) in history.book.clients.iter().enumerate() {
        let Some(instance) = instance(client, &instances) else { continue };
        let registered = by_device.get(&client.device).map_or(&[][..], Vec::as_slice);
        let Some(last) = registered.iter().rposition(|registered| registered.instance == instance) else { continue };
        if let Some(newer) = registered.get(last + 1) {
            taken.insert(id, newer.epoch);
        }
    }
    taken
}

/// A client's instance, as the log names it.
fn instance(client: &Client, instances: &HashMap<u64, u64>) -> Option<u64> {
    client.sessions.iter().find_map(|session| instances.get(&session.epoch)).copied()
}

/// What a replaced client got.
pub fn check(history: &History, broken: &mut Vec<Violation>) {
    for (id, client) in history.book.clients.iter().enumerate() {
        if let Some(two) = client.sessions.windows(2).find(|two| two[0].epoch >= two[1].epoch) {
            let who = history.book.client(id);
            let text = format!("G4: {who} had epoch {} and later {}", two[0].epoch, two[1].epoch);
            broken.push(safety(text).at(two[1].at));
        }
    }
    for (id, epoch) in superseded(history) {
        let client = &history.book.clients[id];
        for got in client.received.iter().filter(|got| got.seq > epoch) {
            let who = history.book.client(id);
            let text = format!("G4: {who} got {} after a newer session took over at {epoch}", got.seq);
            broken.push(safety(text).at(got.at));
        }
    }
}

/// Replaced clients that were not told so.
pub fn missing(history: &History) -> Vec<String> {
    let replaced = superseded(history).into_keys();
    let unaware = replaced.filter(|&id| {
        let client = &history.book.clients[id];
        client.closed_at.is_none() && client.refused.is_none_or(|(_, code)| code != 4502)
    });
    unaware.map(|id| format!("G4: {} was replaced and not told so", history.book.client(id))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, found};
    use super::*;

    /// Client 2 takes client 1's device over at entry 6.
    fn replaced() -> Scene {
        let mut scene = Scene::good();
        scene.client("w", 6);
        scene
    }

    #[test]
    fn a_good_history_is_good() {
        let mut scene = replaced();
        assert_eq!(scene.broken_by(check), Vec::<String>::new());
        scene.book.clients[1].refused = Some((99, 4502));
        assert_eq!(missing(&scene.history()), Vec::<String>::new());
    }

    #[test]
    fn a_replaced_client_gets_more() {
        let mut scene = replaced();
        scene.book.clients[1].received[1].seq = 7 << 12;
        found(&scene.broken_by(check), "after a newer session took over");
    }

    #[test]
    fn a_replaced_client_is_not_told() {
        found(&missing(&replaced().history()), "was replaced and not told so");
    }

    #[test]
    fn an_epoch_goes_back() {
        let mut scene = Scene::good();
        let again = scene.book.clients[0].sessions[0];
        scene.book.clients[0].sessions.push(again);
        found(&scene.broken_by(check), "had epoch");
    }
}
