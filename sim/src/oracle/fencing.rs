//! G4: at most one live session per device; what a replaced client got was stored before the newer
//! one was registered, and it was told. Nor does a session go on over its device's forgetting.

use std::collections::{BTreeMap, HashMap};

use super::facts::{self, Registered};
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
    for (id, client) in history.book.clients.iter().enumerate() {
        check_forgotten(history, id, client, broken);
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

/// What a client got by a session in whose time its device was forgotten: what lies between is told to nobody, so
/// nothing from behind that may follow. Who learns late of its sessions cannot say which one brought it something.
fn check_forgotten(history: &History, id: usize, client: &Client, broken: &mut Vec<Violation>) {
    let spans = history.facts.known.get(&client.device).map_or(&[][..], Vec::as_slice);
    let from = history.facts.outcasts_from.unwrap_or(u64::MAX);
    let ends: Vec<u64> = spans.iter().filter_map(|span| span.until).filter(|at| facts::index(*at) > from).collect();
    if client.slow || ends.is_empty() {
        return;
    }
    for (n, session) in client.sessions.iter().enumerate() {
        let next = client.sessions.get(n + 1);
        let lived = session.epoch..next.map_or(u64::MAX, |next| next.epoch);
        let Some(forgotten) = ends.iter().find(|at| lived.contains(at)) else { continue };
        let time = session.at..next.map_or(u64::MAX, |next| next.at);
        let got = client.received.iter().find(|got| time.contains(&got.at) && got.seq > *forgotten);
        broken.extend(got.map(|got| {
            let who = history.book.client(id);
            let text =
                format!("G4: {who} got {} by the session that it had when it was forgotten at {forgotten}", got.seq);
            safety(text).at(got.at)
        }));
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
    fn a_forgotten_client_goes_on() {
        let mut scene = Scene::good();
        let spans = scene.facts.known.get_mut(&Device::new("w", "a")).expect("it is known");
        // Between its two messages, at entries 3 and 4.
        spans[0].until = Some((3 << 12) + 1);
        assert_eq!(scene.broken_by(check), Vec::<String>::new(), "older builds knew no better");
        scene.facts.outcasts_from = Some(0);
        found(&scene.broken_by(check), "by the session that it had when it was forgotten");
        // By a session of its own, it may: another device by the same name.
        let mut again = scene.book.clients[1].sessions[0];
        (again.epoch, again.at) = ((3 << 12) + 2, scene.book.clients[1].received[1].at);
        scene.book.clients[1].sessions.push(again);
        assert_eq!(scene.broken_by(check), Vec::<String>::new());
    }

    #[test]
    fn an_epoch_goes_back() {
        let mut scene = Scene::good();
        let again = scene.book.clients[0].sessions[0];
        scene.book.clients[0].sessions.push(again);
        found(&scene.broken_by(check), "had epoch");
    }
}
