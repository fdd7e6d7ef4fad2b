//! Holds what clients saw against the guarantees.
//!
//! Invariant: judges by the ledger alone, never by what the production code says of itself; only the
//! comparison of replicas looks inside.

use std::collections::{BTreeMap, BTreeSet};

use im_gateway::client::Fate;

use crate::ledger::{Book, Client, Device, Sent};

/// A broken promise, or a run that proves nothing.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Of which kind.
    pub kind: Kind,
    /// Which guarantee, and by what.
    pub text: String,
}

/// Kinds of violations, the most telling first; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Two runs of a seed differ.
    Determinism,
    /// Something happened that never may.
    Safety,
    /// Something did not happen in time.
    Liveness,
    /// The simulator itself is at fault, or the run was vacuous.
    Harness,
}

impl Kind {
    /// The exit code of a run that ends with it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Safety => 10,
            Self::Liveness => 11,
            Self::Determinism => 12,
            Self::Harness => 13,
        }
    }
}

/// A broken promise.
pub fn safety(text: String) -> Violation {
    Violation { kind: Kind::Safety, text }
}

/// A promise kept too late.
pub fn liveness(text: String) -> Violation {
    Violation { kind: Kind::Liveness, text }
}

/// What is still missing: messages without an answer, and messages that were `ok`'d and did not
/// reach a device that was known. Empty once the cluster has done its work.
pub fn missing(book: &Book) -> Vec<String> {
    let unanswered = book.sent.iter().filter(|(_, sent)| sent.fate.is_none());
    let mut missing: Vec<_> = unanswered.map(|(name, _)| format!("{name} has no answer")).collect();
    for (device, clients) in devices(book) {
        if clients.iter().all(|client| client.sessions.is_empty()) {
            missing.push(format!("{device} never got a session"));
            continue;
        }
        let got: BTreeSet<_> =
            clients.iter().flat_map(|client| &client.received).map(|got| got.name.as_str()).collect();
        let lacks =
            book.sent.iter().filter(|(name, sent)| expects(book, &device, sent) && !got.contains(name.as_str()));
        missing.extend(lacks.map(|(name, _)| format!("{device} did not get {name}")));
    }
    missing
}

/// Clients by device.
fn devices(book: &Book) -> BTreeMap<Device, Vec<&Client>> {
    let mut devices: BTreeMap<Device, Vec<&Client>> = BTreeMap::new();
    for client in &book.clients {
        devices.entry(client.device.clone()).or_default().push(client);
    }
    devices
}

/// Whether `device` must get the message: it is for its user and stored, and the device was known
/// before it was sent, or is the user's first and inherits what waits.
fn expects(book: &Book, device: &Device, sent: &Sent) -> bool {
    let first_session = |device: &Device| {
        let sessions =
            book.clients.iter().filter(|client| client.device == *device).flat_map(|client| &client.sessions);
        sessions.map(|&(_, epoch)| epoch).min()
    };
    let known_at = |device: &Device| {
        let sessions =
            book.clients.iter().filter(|client| client.device == *device).flat_map(|client| &client.sessions);
        sessions.map(|&(at, _)| at).min()
    };
    let siblings = book.clients.iter().map(|client| &client.device).filter(|other| other.user == device.user);
    let is_first = siblings.filter_map(first_session).min() == first_session(device);
    sent.to == device.user
        && matches!(sent.fate, Some(Fate::Stored(_)))
        && (is_first || known_at(device).is_some_and(|at| at < sent.at))
}

/// Everything that must hold at any time.
pub fn check(book: &Book) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (id, client) in book.clients.iter().enumerate() {
        check_client(book, &format!("{}@{id}", client.device), client, &mut broken);
    }
    check_fencing(book, &mut broken);
    check_one_order(book, &mut broken);
    broken
}

fn check_client(book: &Book, who: &str, client: &Client, broken: &mut Vec<Violation>) {
    let mut names = BTreeSet::new();
    let mut last_seq = 0;
    let mut last_number: BTreeMap<usize, u64> = BTreeMap::new();
    for got in &client.received {
        let (name, message) = (&got.name, &got.message);
        let Some(sent) = book.sent.get(name) else {
            broken.push(safety(format!("G1: {who} got {name}, which nobody sent")));
            continue;
        };
        if sent.to != client.device.user || message.to.as_deref() != Some(client.device.user.as_str()) {
            broken.push(safety(format!("G1: {who} got {name}, which is for {}", sent.to)));
        }
        if message.from != sent.from.user || message.device != sent.from.device {
            broken.push(safety(format!("G1: {who} got {name} as if from {}/{}", message.from, message.device)));
        }
        match &sent.fate {
            Some(Fate::Stored(mid)) if *mid != message.mid => {
                broken.push(safety(format!("G2: {who} got {name} under another id than its sender was told")));
            }
            Some(Fate::Refused { .. } | Fate::NotSent | Fate::TooLarge { .. }) => {
                broken.push(safety(format!("G1: {who} got {name}, whose sender was told {:?}", sent.fate)));
            }
            _ => {}
        }
        if !names.insert(name) {
            broken.push(safety(format!("G2: {who} got {name} twice")));
        }
        if message.seq <= last_seq {
            broken.push(safety(format!("G3: {who} got {name} at {} after {last_seq}", message.seq)));
        }
        last_seq = message.seq;
        if let Some(before) = last_number.insert(sent.client, sent.number).filter(|&before| before >= sent.number) {
            broken.push(safety(format!("G3: {who} got {name} after its sender's message {before}")));
        }
    }
    if client.lost > 0 {
        broken.push(safety(format!("G1: {who} lost {} messages far from any limit", client.lost)));
    }
    if let Some(two) = client.sessions.windows(2).find(|two| two[0].1 >= two[1].1) {
        broken.push(safety(format!("G4: {who} had epoch {} and later {}", two[0].1, two[1].1)));
    }
}

/// G4: what a client got was stored before another client of its device took over.
fn check_fencing(book: &Book, broken: &mut Vec<Violation>) {
    for (id, client) in book.clients.iter().enumerate() {
        let others = book.clients.iter().enumerate().filter(|(other, of)| *other != id && of.device == client.device);
        for (other, of) in others {
            // The other one took over for good with its first session after our last one.
            let ours = client.sessions.last().map_or(0, |&(_, epoch)| epoch);
            let Some(taken) = of.sessions.iter().map(|&(_, epoch)| epoch).find(|&epoch| epoch > ours) else { continue };
            for got in client.received.iter().filter(|got| got.message.seq > taken) {
                let (name, seq, device) = (&got.name, got.message.seq, &client.device);
                let text = format!("G4: {device}@{id} got {name} at {seq}, after @{other} took over at {taken}");
                broken.push(safety(text));
            }
            if client.refused.is_none_or(|(_, code)| code != 4502) {
                broken.push(liveness(format!("G4: {}@{id} was replaced and not told so", client.device)));
            }
        }
    }
}

/// G3: a message has one place, whoever gets it.
fn check_one_order(book: &Book, broken: &mut Vec<Violation>) {
    let mut places: BTreeMap<&str, u64> = BTreeMap::new();
    for got in book.clients.iter().flat_map(|client| &client.received) {
        let place = *places.entry(&got.name).or_insert(got.message.seq);
        if place != got.message.seq {
            broken.push(safety(format!("G3: {} is at {place} and at {}", got.name, got.message.seq)));
        }
    }
}

/// Replicas that applied the same entries are equal.
#[derive(Default)]
pub struct Replicas {
    hashes: BTreeMap<u64, ([u8; 32], String)>,
}

impl Replicas {
    /// Takes in one replica's hash.
    pub fn seen(&mut self, node: &str, index: u64, hash: [u8; 32]) -> Option<Violation> {
        let (known, by) = self.hashes.entry(index).or_insert_with(|| (hash, node.to_owned()));
        (*known != hash).then(|| safety(format!("replicas: {node} and {by} differ at entry {index}")))
    }
}
