//! What clients did and saw, as plain data: histories that oracles judge and tests doctor.

use std::fmt;

use cluster::id::MessageId;
use im_gateway::client::Fate;
use im_gateway::protocol::ErrorCode;

/// A user's device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// The user.
    pub user: String,
    /// The device.
    pub device: String,
}

impl Device {
    /// A user's device.
    pub fn new(user: &str, device: &str) -> Self {
        Self { user: user.to_owned(), device: device.to_owned() }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.user, self.device)
    }
}

/// One running client; a device can have several, one after another.
pub type ClientId = usize;

/// A message: the sender's client and its how manieth. Stands at the beginning of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// By which client.
    pub client: ClientId,
    /// Its how manieth.
    pub number: usize,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.client, self.number)
    }
}

impl Name {
    /// Reads a body, the JSON text: a string that begins with a name.
    pub fn of_body(json: &str) -> Option<Self> {
        let text = json.strip_prefix('"')?;
        let end = text.find([' ', '"'])?;
        let (client, number) = text[..end].split_once('#')?;
        Some(Self { client: client.parse().ok()?, number: number.parse().ok()? })
    }
}

/// A message as its sender knows it.
#[derive(Debug, Clone)]
pub struct Sent {
    /// To whom: a user, or a group with `#` before its name.
    pub to: String,
    /// When it was given to the SDK, in ns.
    pub at: u64,
    /// What became of it, if that is known.
    pub fate: Option<Fate>,
    /// When that was, in ns.
    pub answered_at: u64,
    /// Index up to which the log was on the disks of a quorum then.
    pub durable: u64,
}

/// What a client surfaced.
#[derive(Debug, Clone)]
pub struct Received {
    /// When, in ns.
    pub at: u64,
    /// Index up to which the log was on the disks of a quorum then.
    pub durable: u64,
    /// Its place in the device's order.
    pub seq: u64,
    /// What it is.
    pub what: Surfaced,
}

/// A message, or word of some that are lost.
#[derive(Debug, Clone)]
pub enum Surfaced {
    /// A message.
    Message {
        /// The name in its body, if it has one.
        name: Option<Name>,
        /// Its id.
        mid: MessageId,
        /// Who is said to have sent it.
        from: Device,
        /// To whom it is said to be, as in [`Sent`].
        to: Option<String>,
    },
    /// Messages up to here are lost.
    Gap {
        /// How many.
        lost: u64,
    },
}

/// A typing or read mark, as it was made or told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// When, in ns.
    pub at: u64,
    /// To whom it was made, or of whom it was told.
    pub user: String,
    /// The message that was read; none: of typing.
    pub mid: Option<MessageId>,
}

/// Word that somebody has a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// When, in ns.
    pub at: u64,
    /// Which message.
    pub mid: MessageId,
    /// Who has it.
    pub by: String,
}

/// How a client was told that somebody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When, in ns.
    pub at: u64,
    /// With how many devices.
    pub devices: u32,
    /// At which version.
    pub version: u64,
}

/// A client's watch of a user.
#[derive(Debug, Clone)]
pub struct Watching {
    /// Whom.
    pub user: String,
    /// From when on, in ns.
    pub since: u64,
    /// Until when, if it has ended.
    pub until: Option<u64>,
    /// What it was told, in order.
    pub seen: Vec<Seen>,
}

/// A session of a client.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    /// When the client began to ask for it, in ns: when it started, or lost the one before.
    pub began_at: u64,
    /// When it was welcomed, in ns.
    pub at: u64,
    /// Its epoch.
    pub epoch: u64,
    /// On which machine.
    pub node: usize,
    /// When it ended, in ns, as far as the client knows.
    pub ended_at: Option<u64>,
}

/// A client's life.
#[derive(Debug, Clone)]
pub struct Client {
    /// As which device.
    pub device: Device,
    /// Its device is forgotten when it closes.
    pub ephemeral: bool,
    /// Its application is slow: it learns of its sessions late.
    pub slow: bool,
    /// When it started, in ns.
    pub started_at: u64,
    /// Its sessions.
    pub sessions: Vec<Session>,
    /// When attempts to connect came to nothing, in ns.
    pub failed_at: Vec<u64>,
    /// How the node ended it, if so: when, in ns, and the close code.
    pub refused: Option<(u64, u16)>,
    /// When its application closed it, in ns.
    pub closed_at: Option<u64>,
    /// What it surfaced, in order.
    pub received: Vec<Received>,
    /// What it sent, by number.
    pub sent: Vec<Sent>,
    /// Which of its messages it was told to be delivered.
    pub told: Vec<Told>,
    /// Whom it watches or has watched.
    pub watches: Vec<Watching>,
    /// Groups that its user was told not to be able to join or make: when, in ns, which, and why.
    pub not_joined: Vec<(u64, String, ErrorCode)>,
    /// Marks that it made.
    pub marks_made: Vec<Mark>,
    /// Marks that it was told of.
    pub marks_told: Vec<Mark>,
}

impl Client {
    /// A client without a past.
    pub fn new(device: Device, ephemeral: bool, started_at: u64) -> Self {
        Self {
            device,
            ephemeral,
            slow: false,
            started_at,
            sessions: Vec::new(),
            failed_at: Vec::new(),
            refused: None,
            closed_at: None,
            received: Vec::new(),
            sent: Vec::new(),
            told: Vec::new(),
            watches: Vec::new(),
            not_joined: Vec::new(),
            marks_made: Vec::new(),
            marks_told: Vec::new(),
        }
    }

    /// The session that it believes to have.
    pub fn session(&self) -> Option<&Session> {
        self.sessions.last().filter(|session| session.ended_at.is_none())
    }

    /// Whether it still is, or tries to be, connected.
    pub fn is_running(&self) -> bool {
        self.refused.is_none() && self.closed_at.is_none()
    }
}

/// What a token was good for, of a user whose tokens are revoked again and again.
#[derive(Debug, Clone)]
pub struct Exile {
    /// The user.
    pub user: String,
    /// The client instance that uses it, as the log names it.
    pub instance: u64,
    /// When it was issued, ms since the Unix epoch.
    pub issued_ms: u64,
    /// What nodes said to its client, and when, in ns.
    pub got: Vec<(u64, Got)>,
}

/// Something that a node says only to who has a token that counts, or does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// It has a session, of this epoch.
    Welcome(u64),
    /// Its message is stored, under this id.
    Ok(String),
    /// A message or gap, at this position.
    Item(u64),
    /// Its token does not count.
    Refusal,
}

/// A stranger that still had its connection when it must not.
#[derive(Debug, Clone)]
pub struct Tolerated {
    /// What it is.
    pub stranger: String,
    /// To which machine.
    pub node: usize,
    /// Since when it had asked for it, in ns.
    pub from: u64,
    /// Until when, in ns.
    pub until: u64,
}

/// One of a storm, who comes until it is let in.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The machine that let it in, or that it asked first.
    pub node: usize,
    /// When it asked first, in ns.
    pub asked_at: u64,
    /// When a node had opened a WebSocket for it, in ns.
    pub admitted_at: Option<u64>,
}

/// All clients and all messages.
#[derive(Debug, Clone, Default)]
pub struct Book {
    /// Clients in the order they started.
    pub clients: Vec<Client>,
    /// Tokens of users whose tokens are revoked, in the order they were issued.
    pub exiles: Vec<Exile>,
    /// Strangers that were not closed in time.
    pub tolerated: Vec<Tolerated>,
    /// Those who came in storms, in the order they asked first.
    pub arrivals: Vec<Arrival>,
}

impl Book {
    /// A message, if anybody sent it.
    pub fn sent(&self, name: Name) -> Option<&Sent> {
        self.clients.get(name.client)?.sent.get(name.number)
    }

    /// All messages.
    pub fn all_sent(&self) -> impl Iterator<Item = (Name, &Sent)> {
        self.clients.iter().enumerate().flat_map(|(client, life)| {
            life.sent.iter().enumerate().map(move |(number, sent)| (Name { client, number }, sent))
        })
    }

    /// A client, for people.
    pub fn client(&self, id: ClientId) -> String {
        format!("{}@{id}", self.clients[id].device)
    }

    /// A message, for people.
    pub fn message(&self, name: Name) -> String {
        match self.clients.get(name.client) {
            Some(client) => format!("{}@{name}", client.device),
            None => format!("?@{name}"),
        }
    }
}
