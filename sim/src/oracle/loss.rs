//! G1 by the senders' books alone, without a look at the log: whatever was `ok`'d after a device had its
//! first session has reached it at the end, or as many are told to be lost.

use std::collections::{BTreeMap, BTreeSet};

use im_gateway::client::Fate;

use super::{Violation, safety};
use crate::ledger::{Book, Client, Device, Name, Surfaced};
use crate::workload::GROUP;

/// Losses are told by windows of this length, in ns.
const WINDOW: u64 = 15_000_000_000;

/// What devices that are connected lack, when everything has come to rest; copies of what other devices of
/// their users sent since `copied_since`, in ns, included. Those that were ever forgotten are left out: what is
/// sent while they are is not for them.
pub fn check(book: &Book, copied_since: Option<u64>, forgotten: impl Fn(&Device) -> bool) -> Vec<Violation> {
    let mut to: BTreeMap<&str, Vec<(Name, u64)>> = BTreeMap::new();
    for (name, sent) in book.all_sent().filter(|(_, sent)| matches!(sent.fate, Some(Fate::Stored(_)))) {
        to.entry(&sent.to).or_default().push((name, sent.at));
        let from = &book.clients[name.client].device.user;
        let direct = *from != sent.to && !sent.to.starts_with(GROUP);
        if direct && copied_since.is_some_and(|since| sent.at > since) {
            to.entry(from).or_default().push((name, sent.at));
        }
    }
    let mut devices: BTreeMap<&Device, Vec<&Client>> = BTreeMap::new();
    for client in book.clients.iter().filter(|client| !client.ephemeral && !forgotten(&client.device)) {
        devices.entry(&client.device).or_default().push(client);
    }
    let owed = |device: &Device| {
        let of_user = to.get(device.user.as_str())?.iter();
        // What this device sent itself, to others, it does not get.
        let own = |name: Name| book.clients[name.client].device == *device;
        let own_to_other = |name: Name| own(name) && book.sent(name).is_some_and(|sent| sent.to != device.user);
        Some(of_user.filter(|(name, _)| !own_to_other(*name)).copied().collect::<Vec<_>>())
    };
    devices.into_iter().filter_map(|(device, clients)| lost(device, &clients, &owed(device)?)).collect()
}

/// What a device lacks of the messages to its user, each with its time.
fn lost(device: &Device, clients: &[&Client], sent: &[(Name, u64)]) -> Option<Violation> {
    clients.iter().find(|client| client.is_running())?;
    let known_at = clients.iter().filter_map(|client| client.sessions.first()).map(|session| session.at).min()?;
    let (mut got, mut told) = (BTreeSet::new(), 0);
    for received in clients.iter().flat_map(|client| &client.received) {
        match &received.what {
            Surfaced::Message { name, .. } => got.extend(*name),
            Surfaced::Gap { lost } => told += lost,
        }
    }
    let mut windows: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (name, at) in sent.iter().filter(|(_, at)| *at > known_at) {
        let (all, missing) = windows.entry(at / WINDOW).or_default();
        *all += 1;
        *missing += u64::from(!got.contains(name));
    }
    let missing: u64 = windows.values().map(|(_, missing)| missing).sum();
    if missing <= told {
        return None;
    }
    let of = |(window, (all, missing)): (&u64, &(u64, u64))| {
        let seconds = WINDOW / 1_000_000_000;
        format!("{missing} of {all} from {} to {} s", window * seconds, (window + 1) * seconds)
    };
    let windows: Vec<_> = windows.iter().filter(|(_, (_, missing))| *missing > 0).map(of).collect();
    let text = format!("G1: {device} lacks {missing} messages, and was told of {told}: {}", windows.join(", "));
    Some(safety(text))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scene;
    use super::*;

    fn texts(scene: &Scene) -> Vec<String> {
        check(&scene.book, None, |_| false).into_iter().map(|broken| broken.text).collect()
    }

    #[test]
    fn a_good_history_is_good() {
        assert_eq!(texts(&Scene::good()), Vec::<String>::new());
    }

    #[test]
    fn a_loss_shows_in_its_window() {
        let mut scene = Scene::good();
        scene.book.clients[0].sent[1].at = 2 * WINDOW + 5;
        scene.book.clients[1].received.pop();
        assert_eq!(texts(&scene), ["G1: w/a lacks 1 messages, and was told of 0: 1 of 1 from 30 to 45 s"]);
    }

    #[test]
    fn a_gap_accounts_for_as_many_as_it_says() {
        let mut scene = Scene::good();
        scene.book.clients[1].received.clear();
        let gap = |lost| crate::ledger::Received { at: 99, durable: 9, seq: 9, what: Surfaced::Gap { lost } };
        scene.book.clients[1].received.push(gap(1));
        assert_eq!(texts(&scene).len(), 1);
        scene.book.clients[1].received[0] = gap(2);
        assert_eq!(texts(&scene), Vec::<String>::new());
    }

    #[test]
    fn other_devices_of_the_sender_get_a_copy() {
        let mut scene = Scene::good();
        let other = Device::new("u", "b");
        let sessions = scene.book.clients[0].sessions.clone();
        scene.book.clients.push(Client { sessions, ..Client::new(other.clone(), false, 1) });
        assert_eq!(texts(&scene), Vec::<String>::new(), "nobody knew of copies");
        let said = |scene: &Scene, since| check(&scene.book, Some(since), |_| false).len();
        assert_eq!((said(&scene, 0), said(&scene, 1_000)), (1, 0));
        scene.book.clients[2].received = scene.book.clients[1].received.clone();
        assert_eq!(said(&scene, 0), 0);
    }

    #[test]
    fn before_it_was_known_or_after_it_left() {
        let mut scene = Scene::good();
        scene.book.clients[1].received.clear();
        scene.book.clients[1].sessions[0].at = 1_000;
        assert_eq!(texts(&scene), Vec::<String>::new());
        scene.book.clients[1].sessions[0].at = 5;
        scene.book.clients[1].closed_at = Some(2_000);
        assert_eq!(texts(&scene), Vec::<String>::new());
    }
}
