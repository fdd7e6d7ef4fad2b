//! What clients did and saw, written down as it happens: the evidence that oracles judge by.

mod book;

use std::sync::{Arc, Mutex, MutexGuard};

use cluster::id::MessageId;
use cluster::sync::lock;
use im_gateway::client::{Fate, Incoming};
use im_gateway::protocol::ErrorCode;
use serde_json::json;

pub use book::{
    Arrival, Book, Client, ClientId, Device, Exile, Got, Mark, Name, Received, Seen, Sent, Session, Surfaced, Told,
    Tolerated, Watching,
};

use crate::coverage;
use crate::oracle::{Journal, Violation, safety};
use crate::time;
use crate::trace::Trace;

/// The shared book.
#[derive(Clone)]
pub struct Ledger {
    book: Arc<Mutex<Book>>,
    /// Where clients reach each machine, `host:port`.
    nodes: Arc<Vec<String>>,
    journal: Journal,
    trace: Trace,
    /// What strangers found wrong.
    complaints: Arc<Mutex<Vec<Violation>>>,
}

impl Ledger {
    /// Empty. `nodes`: where clients reach each machine, `host:port`.
    pub fn new(nodes: Vec<String>, journal: Journal, trace: Trace) -> Self {
        Self { book: Arc::default(), nodes: Arc::new(nodes), journal, trace, complaints: Arc::default() }
    }

    /// The book.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    /// A client that keeps to no rules finds that a node does not either.
    pub fn complain(&self, text: String) {
        let violation = safety(text).at(time::now());
        lock(&self.complaints).push(violation);
    }

    /// A stranger was not closed in time; whether that has an excuse is known at the end.
    pub fn tolerated(&self, stranger: Tolerated) {
        self.book().tolerated.push(stranger);
    }

    /// One of a storm asks a node for a WebSocket, for the first time; returns its number.
    pub fn arrived(&self, node: usize) -> usize {
        let mut book = self.book();
        book.arrivals.push(Arrival { node, asked_at: time::now(), admitted_at: None });
        book.arrivals.len() - 1
    }

    /// A node opened a WebSocket for one of a storm.
    pub fn admitted(&self, arrival: usize, node: usize) {
        let mut book = self.book();
        let arrival = &mut book.arrivals[arrival];
        (arrival.node, arrival.admitted_at) = (node, Some(time::now()));
    }

    /// What was complained of.
    pub fn complaints(&self) -> Vec<Violation> {
        lock(&self.complaints).clone()
    }

    /// A client starts.
    pub fn start(&self, device: Device, ephemeral: bool, slow: bool) -> ClientId {
        let mut book = self.book();
        book.clients.push(Client { slow, ..Client::new(device, ephemeral, time::now()) });
        book.clients.len() - 1
    }

    /// A user whose tokens are revoked has a new one; returns its number.
    pub fn exile(&self, user: &str, instance: u64, issued_ms: u64) -> usize {
        let exiles = &mut self.book().exiles;
        exiles.push(Exile { user: user.to_owned(), instance, issued_ms, got: Vec::new() });
        exiles.len() - 1
    }

    /// A node said something to the client that uses this token.
    pub fn exile_got(&self, token: usize, got: Got) {
        let mut book = self.book();
        let exile = &mut book.exiles[token];
        self.trace
            .lazy("exile", || json!({ "user": exile.user, "issued_ms": exile.issued_ms, "got": format!("{got:?}") }));
        if got == Got::Refusal && exile.got.iter().any(|(_, got)| matches!(got, Got::Welcome(_))) {
            coverage::reached("a session by a revoked token was ended");
        }
        exile.got.push((time::now(), got));
    }

    /// When the last token of a user was issued, ms since the Unix epoch.
    pub fn last_issued(&self, user: &str) -> Option<u64> {
        self.book().exiles.iter().rev().find(|exile| exile.user == user).map(|exile| exile.issued_ms)
    }

    /// A client was welcomed.
    pub fn connected(&self, id: ClientId, address: &str, session: &str) {
        let mut book = self.book();
        let node = self.nodes.iter().position(|node| node == address).expect("nodes do not move");
        let epoch = session.parse().expect("a session's name is its epoch");
        let client = &mut book.clients[id];
        let lost_at = client.sessions.last().map(|before| before.ended_at.unwrap_or(before.at));
        let began_at = lost_at.unwrap_or(client.started_at);
        client.sessions.push(Session { began_at, at: time::now(), epoch, node, ended_at: None });
        self.trace
            .lazy("connected", || json!({ "client": book.client(id), "node": format!("n{node}"), "epoch": epoch }));
    }

    /// A client's connection ended, or did not come about.
    pub fn disconnected(&self, id: ClientId, reason: &str) {
        let mut book = self.book();
        let client = &mut book.clients[id];
        match client.sessions.last_mut().filter(|session| session.ended_at.is_none()) {
            Some(session) => session.ended_at = Some(time::now()),
            None => client.failed_at.push(time::now()),
        }
        self.trace.lazy("disconnected", || json!({ "client": book.client(id), "reason": reason }));
    }

    fn ended(&self, id: ClientId) -> MutexGuard<'_, Book> {
        let mut book = self.book();
        if let Some(session) = book.clients[id].sessions.last_mut() {
            session.ended_at.get_or_insert(time::now());
        }
        book
    }

    /// A node told a client not to come back.
    pub fn refused(&self, id: ClientId, code: u16) {
        let mut book = self.ended(id);
        book.clients[id].refused = Some((time::now(), code));
        if code == 4502 {
            coverage::reached("a client was replaced by a newer one");
        }
        self.trace.lazy("refused", || json!({ "client": book.client(id), "code": code }));
    }

    /// A client's application closes it.
    pub fn closed(&self, id: ClientId) {
        let mut book = self.ended(id);
        book.clients[id].closed_at.get_or_insert(time::now());
        self.trace.lazy("closed", || json!({ "client": book.client(id) }));
    }

    /// A client surfaced a message.
    pub fn received(&self, id: ClientId, message: Incoming) {
        let name = Name::of_body(message.body.get());
        if message.to.as_ref().is_some_and(|to| *to != self.book().clients[id].device.user) {
            coverage::reached("another device of the sender got a copy");
        }
        let what = Surfaced::Message {
            name,
            mid: message.mid,
            from: Device { user: message.from, device: message.device },
            to: message.to.or_else(|| message.group.map(|group| format!("#{group}"))),
        };
        self.surfaced(id, message.seq, what);
    }

    /// A client was told that it lost messages.
    pub fn gap(&self, id: ClientId, seq: u64, lost: u64) {
        coverage::reached("a device was told of a gap");
        self.surfaced(id, seq, Surfaced::Gap { lost });
    }

    fn surfaced(&self, id: ClientId, seq: u64, what: Surfaced) {
        let durable = self.journal.committed();
        let mut book = self.book();
        self.trace.lazy("received", || {
            let what = match &what {
                Surfaced::Message { name: Some(name), .. } => book.message(*name),
                Surfaced::Message { name: None, mid, .. } => mid.to_string(),
                Surfaced::Gap { lost } => format!("gap of {lost}"),
            };
            json!({ "client": book.client(id), "seq": seq, "message": what })
        });
        book.clients[id].received.push(Received { at: time::now(), durable, seq, what });
    }

    /// A message was given to the SDK; returns its name.
    pub fn sent(&self, client: ClientId, to: &str) -> Name {
        let mut book = self.book();
        let messages = &mut book.clients[client].sent;
        let name = Name { client, number: messages.len() };
        messages.push(Sent { to: to.to_owned(), at: time::now(), fate: None, answered_at: 0, durable: 0 });
        self.trace.lazy("sent", || json!({ "message": book.message(name), "to": to }));
        name
    }

    /// What became of a message, by the word of this client, which sent it or repeats it. A later word counts only
    /// where the first one left it open.
    pub fn fate(&self, by: ClientId, name: Name, fate: Fate) {
        let durable = self.journal.committed();
        let mut book = self.book();
        // Whoever repeats it in vain does not know what became of earlier attempts.
        let in_vain = fate == Fate::NotSent && by != name.client;
        let fate = if in_vain { Fate::Unknown } else { fate };
        self.trace.lazy("fate", || {
            let text = match &fate {
                Fate::Stored(mid) => format!("stored {mid}"),
                other => format!("{other:?}"),
            };
            json!({ "message": book.message(name), "fate": text })
        });
        if fate == Fate::Unknown {
            coverage::reached("the fate of a message stayed unknown");
        }
        let sent = &mut book.clients[name.client].sent[name.number];
        if matches!(sent.fate, None | Some(Fate::Unknown | Fate::NotSent)) {
            (sent.fate, sent.answered_at, sent.durable) = (Some(fate), time::now(), durable);
        }
    }

    /// A client was told that somebody has a message.
    pub fn told(&self, id: ClientId, mid: MessageId, by: String) {
        coverage::reached("a sender was told of a delivery");
        self.book().clients[id].told.push(Told { at: time::now(), mid, by });
    }

    /// A client types to somebody, or has read a message of theirs.
    pub fn marked(&self, id: ClientId, to: &str, mid: Option<MessageId>) {
        self.book().clients[id].marks_made.push(Mark { at: time::now(), user: to.to_owned(), mid });
    }

    /// A client was told that somebody types, or has read a message.
    pub fn was_marked(&self, id: ClientId, user: String, mid: Option<MessageId>) {
        coverage::reached(if mid.is_some() { "a read mark was told" } else { "typing was told" });
        self.book().clients[id].marks_told.push(Mark { at: time::now(), user, mid });
    }

    /// The message that a client surfaced last: from whom, and which.
    pub fn latest(&self, id: ClientId) -> Option<(String, MessageId)> {
        self.book().clients[id].received.iter().rev().find_map(|received| match &received.what {
            Surfaced::Message { mid, from, .. } => Some((from.user.clone(), *mid)),
            Surfaced::Gap { .. } => None,
        })
    }

    /// A client was told that its user may not join a group.
    pub fn not_joined(&self, id: ClientId, group: &str, code: ErrorCode) {
        self.book().clients[id].not_joined.push((time::now(), group.to_owned(), code));
    }

    /// A client watches somebody from now on.
    pub fn watch(&self, id: ClientId, user: &str) {
        let watching = Watching { user: user.to_owned(), since: time::now(), until: None, seen: Vec::new() };
        self.book().clients[id].watches.push(watching);
    }

    /// A client watches somebody no more.
    pub fn unwatch(&self, id: ClientId, user: &str) {
        let mut book = self.book();
        let open = book.clients[id].watches.iter_mut().rfind(|watching| watching.user == user);
        open.expect("it was watched").until = Some(time::now());
    }

    /// A client was told that somebody is there with so many devices.
    pub fn saw(&self, id: ClientId, user: &str, devices: u32, version: u64) {
        let mut book = self.book();
        self.trace
            .lazy("saw", || json!({ "client": book.client(id), "user": user, "devices": devices, "version": version }));
        let mut open = book.clients[id].watches.iter_mut().filter(|watching| watching.until.is_none());
        let Some(watching) = open.find(|watching| watching.user == user) else {
            let text = format!("G5: {} was told of {user}, whom it does not watch", book.client(id));
            drop(book);
            return self.complain(text);
        };
        match watching.seen.last() {
            Some(before) if before.devices < devices => coverage::reached("a watcher saw somebody come"),
            Some(before) if before.devices > devices => coverage::reached("a watcher saw somebody go"),
            _ => {}
        }
        watching.seen.push(Seen { at: time::now(), devices, version });
    }

    /// What earlier clients of this one's device sent and had no answer to, oldest first, and to whom.
    pub fn unanswered(&self, id: ClientId) -> Vec<(Name, String)> {
        let book = self.book();
        let device = &book.clients[id].device;
        let open = book.all_sent().filter(|(name, sent)| {
            let open = matches!(sent.fate, None | Some(Fate::Unknown | Fate::NotSent));
            open && name.client < id && book.clients[name.client].device == *device
        });
        open.map(|(name, sent)| (name, sent.to.clone())).collect()
    }
}
