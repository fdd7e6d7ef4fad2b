//! A small good history, for tests to doctor.

use cluster::id::{MessageId, NodeId};
use im_gateway::client::Fate;

use super::devices::KnownSpan;
use super::{Facts, History, Registered, Stored, Violation};
use crate::ledger::{Book, Client, Device, Name, Received, Sent, Session, Surfaced};

/// One node, on machine 0.
pub const NODE: NodeId = NodeId(7);

/// A history and what goes with it.
pub struct Scene {
    pub book: Book,
    pub facts: Facts,
    pub tight: bool,
    machines: Vec<(NodeId, usize)>,
}

/// A position.
pub fn pos(index: u64) -> u64 {
    index << 12
}

impl Scene {
    /// Client 0 (`u/a`, epoch at entry 1) sends two messages to client 1 (`w/a`, epoch at entry 2),
    /// which are stored at 3 and 4, and seen.
    pub fn good() -> Self {
        let mut scene =
            Self { book: Book::default(), facts: Facts::default(), tight: false, machines: vec![(NODE, 0)] };
        for (user, entry) in [("u", 1), ("w", 2)] {
            scene.client(user, entry);
        }
        for number in 0..2 {
            scene.message(number, 3 + number as u64);
        }
        scene
    }

    /// A client of `user`'s device `a`, registered at `entry`.
    pub fn client(&mut self, user: &str, entry: u64) {
        let device = Device::new(user, "a");
        let mut client = Client::new(device.clone(), false, entry * 10);
        let (began_at, at) = (entry * 10, entry * 10 + 5);
        client.sessions.push(Session { began_at, at, epoch: pos(entry), node: 0, ended_at: None });
        let instance = self.book.clients.len() as u64;
        self.book.clients.push(client);
        let of_user = self.facts.registered.iter().any(|registered| registered.device.user == device.user);
        let owed_from = if of_user { pos(entry) } else { 0 };
        let span = KnownSpan { until: None, owed_from, ..KnownSpan::default() };
        self.facts.known.entry(device.clone()).or_insert_with(|| vec![span]);
        self.facts.registered.push(Registered { epoch: pos(entry), device, instance, node: NODE });
    }

    fn message(&mut self, number: usize, entry: u64) {
        let name = Name { client: 0, number };
        let mid = MessageId([number as u8 + 1; 16]);
        let (at, answered_at) = (entry * 10, entry * 10 + 5);
        let fate = Some(Fate::Stored(mid));
        self.book.clients[0].sent.push(Sent { to: "w".into(), at, fate, answered_at, durable: entry });
        self.facts.stored.push(Stored {
            pos: pos(entry),
            mid,
            name: Some(name),
            to: "w".into(),
            instance: 0,
            node: NODE,
            copied_from: None,
        });
        let what = Surfaced::Message { name: Some(name), mid, from: Device::new("u", "a"), to: Some("w".into()) };
        self.book.clients[1].received.push(Received { at: answered_at, durable: entry, seq: pos(entry), what });
    }

    /// What an oracle says of it.
    pub fn broken_by(&self, check: impl Fn(&History, &mut Vec<Violation>)) -> Vec<String> {
        let mut broken = Vec::new();
        check(&self.history(), &mut broken);
        broken.into_iter().map(|violation| violation.text).collect()
    }

    /// For oracles.
    pub fn history(&self) -> History<'_> {
        History { book: &self.book, facts: &self.facts, tight: self.tight, inflight: 2, machines: &self.machines }
    }
}

/// Asserts that one of the texts says so.
pub fn found(texts: &[String], part: &str) {
    assert!(texts.iter().any(|text| text.contains(part)), "nothing says {part:?}: {texts:#?}");
}
