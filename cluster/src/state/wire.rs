//! Users and messages as bytes, in checkpoints and under the state's hash.
//!
//! Invariant: what is written here is all that is replicated of a user, and it is read back equal.
//! So a restored replica behaves as one that applied the whole log. (Where bodies are differs.)

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::device::{Device, Heir, Retired};
use super::inbox::{Inbox, Slot};
use super::message::{Body, Message, Stored};
use super::user::User;
use crate::id::{DeviceId, MessageId, NodeId, Pos, UserId};

/// A body in an encoded section.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum BodyWire {
    /// In the section itself.
    Inline(Bytes),
    /// In a blob.
    Stored(Stored),
    /// Left out; in hashes only.
    Hashed(u64),
}

#[derive(Serialize, Deserialize)]
struct MessageWire {
    pos: Pos,
    mid: MessageId,
    from: UserId,
    device: DeviceId,
    origin: NodeId,
    ts_ms: u64,
    stored_at_ms: u64,
    acked: bool,
    body: BodyWire,
}

/// A user, as encoded.
#[derive(Serialize, Deserialize)]
pub(super) struct UserWire {
    name: UserId,
    devices: Vec<Device>,
    retired: Vec<Retired>,
    heir: Option<Heir>,
    oldest_ms: u64,
    check_ms: u64,
    base: u64,
    left: Pos,
    last: Pos,
    messages: Vec<MessageWire>,
}

impl UserWire {
    /// `body` says how each body is written.
    pub fn of(name: &UserId, user: &User, body: impl Fn(&Message) -> BodyWire) -> Self {
        let message = |slot: &Slot| {
            let message = slot.message.as_ref();
            MessageWire {
                pos: message.pos,
                mid: message.mid,
                from: message.from.clone(),
                device: message.device.clone(),
                origin: message.origin,
                ts_ms: message.ts_ms,
                stored_at_ms: message.stored_at_ms,
                acked: slot.acked,
                body: body(message),
            }
        };
        Self {
            name: name.clone(),
            devices: user.devices.clone(),
            retired: user.retired.clone(),
            heir: user.heir,
            oldest_ms: user.oldest_ms,
            check_ms: user.check_ms,
            base: user.inbox.base(),
            left: user.inbox.left(),
            last: user.inbox.last(),
            messages: user.inbox.iter().map(message).collect(),
        }
    }

    /// The user, and whether all of it fits together.
    ///
    /// # Errors
    /// What does not.
    pub fn read(self, names: &mut Names) -> Result<(UserId, User), &'static str> {
        if self.base >= 1 << 53 {
            return Err("more messages than positions");
        }
        let name = intern(&mut names.users, self.name);
        let mut last = self.left;
        let mut inbox = Inbox::starting(self.base, self.left);
        for wire in self.messages {
            if wire.pos <= last {
                return Err("messages out of order");
            }
            last = wire.pos;
            let body = match wire.body {
                BodyWire::Inline(bytes) => Body::Memory(bytes),
                BodyWire::Stored(stored) => Body::Stored(stored),
                BodyWire::Hashed(_) => return Err("a message without its body"),
            };
            let message = Message {
                pos: wire.pos,
                mid: wire.mid,
                from: intern(&mut names.users, wire.from),
                device: intern(&mut names.devices, wire.device),
                to: name.clone(),
                origin: wire.origin,
                ts_ms: wire.ts_ms,
                stored_at_ms: wire.stored_at_ms,
                body,
            };
            inbox.push(Arc::new(message), wire.acked);
        }
        if last != self.last {
            return Err("an inbox without its end");
        }
        let devices = self.devices;
        let (retired, heir, oldest_ms, check_ms) = (self.retired, self.heir, self.oldest_ms, self.check_ms);
        let user = User { devices, retired, heir, inbox, oldest_ms, check_ms };
        user.audit()?;
        Ok((name, user))
    }
}

/// Names seen so far, so that equal ones share their memory.
#[derive(Default)]
pub(super) struct Names {
    users: HashSet<UserId>,
    devices: HashSet<DeviceId>,
}

fn intern<T: Clone + Eq + Hash>(names: &mut HashSet<T>, name: T) -> T {
    match names.get(&name) {
        Some(known) => known.clone(),
        None => {
            names.insert(name.clone());
            name
        }
    }
}
