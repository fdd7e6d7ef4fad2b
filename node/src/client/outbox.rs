//! Messages on their way out, and what is done with groups among them, as a pure core.
//!
//! Invariant: messages go out in the order they were given; on a new connection all that have no
//! answer go again, in that order and byte for byte, before any new one; at most `inflight` of them
//! are without an answer. Together with the node's memory of the last `inflight` ids this makes each
//! stored once and in order, whatever connections break (G2, G3).

use std::collections::VecDeque;
use std::time::Duration;

use cluster::env::clock::Instant;
use cluster::state::GroupAct;
use serde_json::value::RawValue;

use crate::protocol::{ClientBody, ClientFrame, Forget, Group, Send, Traceparent};

/// How long a message is repeated before its fate is reported as unknown. Nodes remember a message
/// id for an hour after its device was last seen; the rest is room for clocks that differ and for
/// the last repeat's way.
pub const REPEAT_FOR: Duration = Duration::from_secs(58 * 60);

/// First `id` of a send. Lower ones are for what is no send.
pub const FIRST_ID: u64 = 16;

/// A point in time on both clocks: the monotonic one stands still while a machine sleeps, and the
/// other can be set. Whichever says that more time has passed is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic.
    pub monotonic: Instant,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

impl Now {
    fn since(self, earlier: Self) -> Duration {
        let wall = Duration::from_millis(self.wall_ms.saturating_sub(earlier.wall_ms));
        (self.monotonic - earlier.monotonic).max(wall)
    }
}

/// A message to send.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The recipient, or recipients.
    pub to: To,
    /// Tells this message from others of this device.
    pub key: String,
    /// Any JSON.
    pub body: Box<RawValue>,
    /// The trace that it is part of.
    pub trace: Option<Traceparent>,
}

/// To whom a message goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum To {
    /// A user.
    User(String),
    /// The members of a group.
    Group(String),
}

impl From<&str> for To {
    fn from(user: &str) -> Self {
        Self::User(user.to_owned())
    }
}

impl From<&String> for To {
    fn from(user: &String) -> Self {
        Self::User(user.clone())
    }
}

/// What waits for its turn and then for its answer.
#[derive(Debug, Clone)]
pub enum Request {
    /// A message.
    Send(Outgoing),
    /// Something with a group of this name.
    Group(GroupAct, String),
    /// Another device of the user is to be forgotten.
    Forget(String),
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Self::Send(message) => message.body.get().len(),
            Self::Group(..) | Self::Forget(_) => 0,
        }
    }

    fn frame(&self, id: u64) -> String {
        let body = match self {
            Self::Send(Outgoing { to, key, body, trace }) => {
                let (to, group) = match to {
                    To::User(to) => (Some(to.into()), None),
                    To::Group(group) => (None, Some(group.into())),
                };
                let trace = trace.map(|trace| trace.to_string().into());
                ClientBody::Send(Send { to, group, key: key.into(), body, trace })
            }
            Self::Group(act, name) => ClientBody::Group(Group::act(*act, name)),
            Self::Forget(device) => ClientBody::Forget(Forget { device: device.into() }),
        };
        ClientFrame { id: Some(id), body }.encode()
    }
}

struct Entry<R> {
    id: u64,
    request: Request,
    /// When it was given to us.
    given: Now,
    /// When it was first written to a connection.
    written: Option<Now>,
    reply: R,
}

/// What to do next with a connection that has room.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<R> {
    /// Write this frame.
    Frame(String),
    /// This message cannot be sent: its frame is larger than the node takes. `true` when an earlier
    /// node may have taken it.
    TooLarge(R, bool),
    /// Nothing, for now.
    Idle,
}

/// The queue of messages without an answer. `R` is how the application is told.
pub struct Outbox<R> {
    entries: VecDeque<Entry<R>>,
    /// How many of the first entries were written to the present connection.
    written: usize,
    /// The node's limits; `inflight` is 0 while there is no connection.
    inflight: usize,
    frame_bytes: usize,
    next_id: u64,
    bytes: usize,
}

impl<R> Default for Outbox<R> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), written: 0, inflight: 0, frame_bytes: 0, next_id: FIRST_ID, bytes: 0 }
    }
}

impl<R> Outbox<R> {
    /// Messages without an answer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether everything has its answer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of the bodies of all messages without an answer.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a request in.
    pub fn push(&mut self, request: Request, reply: R, now: Now) {
        self.bytes += request.bytes();
        self.entries.push_back(Entry { id: self.next_id, request, given: now, written: None, reply });
        self.next_id += 1;
    }

    /// A connection stands, on which nothing was written yet.
    pub fn connected(&mut self, inflight: usize, frame_bytes: usize) {
        (self.written, self.inflight, self.frame_bytes) = (0, inflight, frame_bytes);
    }

    /// The connection is gone, and with it what had no answer.
    pub fn disconnected(&mut self) {
        (self.written, self.inflight) = (0, 0);
    }

    /// What to write next.
    pub fn next(&mut self, now: Now) -> Next<R> {
        if self.written >= self.inflight {
            return Next::Idle;
        }
        let Some(entry) = self.entries.get_mut(self.written) else { return Next::Idle };
        let frame = entry.request.frame(entry.id);
        if frame.len() > self.frame_bytes {
            let entry = self.remove(self.written);
            return Next::TooLarge(entry.reply, entry.written.is_some());
        }
        entry.written.get_or_insert(now);
        self.written += 1;
        Next::Frame(frame)
    }

    /// The answer for the send of this `id` has come: whom to tell. `None` when nobody waits.
    pub fn answered(&mut self, id: u64) -> Option<R> {
        let index = self.entries.binary_search_by_key(&id, |entry| entry.id).ok()?;
        // An answer to what was not written on this connection answers nothing.
        (index < self.written).then(|| self.remove(index).reply)
    }

    /// Gives up what has waited too long. With each goes whether it was ever written: if not,
    /// it is sure that nobody has it.
    pub fn expire(&mut self, now: Now) -> Vec<(R, bool)> {
        let mut expired = Vec::new();
        while let Some(entry) = self.entries.front() {
            if now.since(entry.written.unwrap_or(entry.given)) < REPEAT_FOR {
                break;
            }
            let entry = self.remove(0);
            expired.push((entry.reply, entry.written.is_some()));
        }
        expired
    }

    /// Gives up everything, as [`Outbox::expire`] does.
    pub fn give_up(&mut self) -> Vec<(R, bool)> {
        (self.written, self.bytes) = (0, 0);
        self.entries.drain(..).map(|entry| (entry.reply, entry.written.is_some())).collect()
    }

    fn remove(&mut self, index: usize) -> Entry<R> {
        let entry = self.entries.remove(index).expect("the index was found in the queue");
        self.written -= usize::from(index < self.written);
        self.bytes -= entry.request.bytes();
        entry
    }
}
