//! What clients did and saw: the only evidence that the oracles judge by.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use im_gateway::client::{Fate, Incoming};
use serde_json::json;

use crate::time;
use crate::trace::Trace;

/// A user's device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// The user.
    pub user: String,
    /// The device.
    pub device: String,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.user, self.device)
    }
}

/// One running client; a device can have several, one after another.
pub type ClientId = usize;

/// A message as its sender knows it. Its body says which one it is.
#[derive(Debug, Clone)]
pub struct Sent {
    /// By which client.
    pub client: ClientId,
    /// As which device.
    pub from: Device,
    /// To whom.
    pub to: String,
    /// The client's how manieth.
    pub number: u64,
    /// When it was given to the SDK, in ns.
    pub at: u64,
    /// What became of it, if that is known.
    pub fate: Option<Fate>,
}

/// A message as a client surfaced it.
#[derive(Debug, Clone)]
pub struct Received {
    /// The name in its body.
    pub name: String,
    /// What came with it.
    pub message: Incoming,
}

/// A client's life.
#[derive(Debug, Clone)]
pub struct Client {
    /// As which device.
    pub device: Device,
    /// Sessions: when, in ns, and the epoch.
    pub sessions: Vec<(u64, u64)>,
    /// How the node ended it, if so: when, in ns, and the close code.
    pub refused: Option<(u64, u16)>,
    /// What it surfaced, in order.
    pub received: Vec<Received>,
    /// Messages that it was told it lost.
    pub lost: u64,
}

/// All clients and all messages.
#[derive(Default)]
pub struct Book {
    /// Messages by the name in their body.
    pub sent: BTreeMap<String, Sent>,
    /// Clients in the order they started.
    pub clients: Vec<Client>,
}

/// The shared book.
#[derive(Clone)]
pub struct Ledger {
    book: Arc<Mutex<Book>>,
    trace: Trace,
}

impl Ledger {
    /// Empty.
    pub fn new(trace: Trace) -> Self {
        Self { book: Arc::default(), trace }
    }

    /// The book.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client starts.
    pub fn start(&self, device: Device) -> ClientId {
        let mut book = self.book();
        let client = Client { device, sessions: Vec::new(), refused: None, received: Vec::new(), lost: 0 };
        book.clients.push(client);
        book.clients.len() - 1
    }

    /// A client was welcomed.
    pub fn connected(&self, id: ClientId, node: &str, session: &str) {
        let mut book = self.book();
        let client = &mut book.clients[id];
        let epoch = session.parse().expect("a session's name is its epoch");
        client.sessions.push((time::now(), epoch));
        let of = json!({ "client": client.device.to_string(), "id": id, "node": node, "epoch": epoch });
        self.trace.event("connected", of);
    }

    /// A client's connection ended.
    pub fn disconnected(&self, id: ClientId, reason: &str) {
        let device = self.book().clients[id].device.to_string();
        self.trace.event("disconnected", json!({ "client": device, "id": id, "reason": reason }));
    }

    /// A node told a client not to come back.
    pub fn refused(&self, id: ClientId, code: u16) {
        let mut book = self.book();
        book.clients[id].refused = Some((time::now(), code));
        self.trace.event("refused", json!({ "client": book.clients[id].device.to_string(), "id": id, "code": code }));
    }

    /// A client surfaced a message.
    pub fn received(&self, id: ClientId, message: Incoming) {
        let mut book = self.book();
        let name = serde_json::from_str::<String>(message.body.get()).unwrap_or_else(|_| message.body.get().to_owned());
        let of =
            json!({ "client": book.clients[id].device.to_string(), "id": id, "seq": message.seq, "message": name });
        self.trace.event("received", of);
        book.clients[id].received.push(Received { name, message });
    }

    /// A client was told that it lost messages.
    pub fn gap(&self, id: ClientId, lost: u64) {
        let mut book = self.book();
        book.clients[id].lost += lost;
        self.trace.event("gap", json!({ "client": book.clients[id].device.to_string(), "id": id, "lost": lost }));
    }

    /// A message was given to the SDK; returns the name for its body.
    pub fn sent(&self, client: ClientId, to: &str, number: u64) -> String {
        let from = self.book().clients[client].device.clone();
        let name = format!("{from}@{client}#{number}");
        self.trace.event("sent", json!({ "message": name, "to": to }));
        let sent = Sent { client, from, to: to.to_owned(), number, at: time::now(), fate: None };
        let before = self.book().sent.insert(name.clone(), sent);
        assert!(before.is_none(), "{name} was sent before");
        name
    }

    /// What became of a message.
    pub fn fate(&self, name: &str, fate: Fate) {
        let text = match &fate {
            Fate::Stored(mid) => format!("stored {mid}"),
            other => format!("{other:?}"),
        };
        self.trace.event("fate", json!({ "message": name, "fate": text }));
        let mut book = self.book();
        let sent = book.sent.get_mut(name).expect("it was sent");
        sent.fate = Some(fate);
    }
}
