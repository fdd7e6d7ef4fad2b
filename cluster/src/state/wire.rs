//! Users and messages as bytes, in checkpoints and under the state's hash.
//!
//! Invariant: what is written here is all that is replicated of a user, and it is read back equal.
//! So a restored replica behaves as one that applied the whole log. (Where bodies are differs.)

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::device::{Device, Heir, Retired, ScatteredGap};
use super::group::{Group, Members, Membership};
use super::held::{Held, Waiting};
use super::inbox::{Inbox, Slot};
use super::message::{Body, Destination, Message, Stored, Told};
use super::user::User;
use crate::id::{DeviceId, GroupId, MessageId, NodeId, Pos, UserId};
use crate::trace::Mark;

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

impl MessageWire {
    fn of(message: &Message, acked: bool, body: BodyWire) -> Self {
        Self {
            pos: message.pos,
            mid: message.mid,
            from: message.from.clone(),
            device: message.device.clone(),
            origin: message.origin,
            ts_ms: message.ts_ms,
            stored_at_ms: message.stored_at_ms,
            acked,
            body,
        }
    }

    fn read(self, to: Destination, names: &mut Names) -> Result<Message, &'static str> {
        let body = match self.body {
            BodyWire::Inline(bytes) => Body::Memory(bytes),
            BodyWire::Stored(stored) => Body::Stored(stored),
            BodyWire::Hashed(_) => return Err("a message without its body"),
        };
        Ok(Message {
            pos: self.pos,
            mid: self.mid,
            from: intern(&mut names.users, self.from),
            device: intern(&mut names.devices, self.device),
            to,
            origin: self.origin,
            ts_ms: self.ts_ms,
            stored_at_ms: self.stored_at_ms,
            body,
            told: Told::default(),
            trace: Mark::default(),
        })
    }
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
        let message = |slot: &Slot| MessageWire::of(&slot.message, slot.acked, body(&slot.message));
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

    /// The user, without its groups and copies: see [`GroupsOfUser`] and [`CopiesWire`].
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
            let acked = wire.acked;
            let message = wire.read(Destination::User(name.clone()), names)?;
            inbox.push(Arc::new(message), acked);
        }
        if last != self.last {
            return Err("an inbox without its end");
        }
        let devices = self.devices;
        let (retired, heir, oldest_ms, check_ms) = (self.retired, self.heir, self.oldest_ms, self.check_ms);
        let (groups, copies) = (Vec::new(), None);
        let user = User { devices, retired, heir, inbox, groups, copies, oldest_ms, check_ms };
        Ok((name, user))
    }
}

/// What a user has to do with groups, as encoded.
#[derive(Serialize, Deserialize)]
pub(super) struct GroupsOfUser {
    name: UserId,
    groups: Vec<Membership>,
    /// One for each device, else one for the heir.
    gaps: Vec<Option<ScatteredGap>>,
}

impl GroupsOfUser {
    /// `None` when there is nothing to say.
    pub fn of(name: &UserId, user: &User) -> Option<Self> {
        let gaps: Vec<_> = user.cursors().map(|(_, cursor)| cursor.scattered).collect();
        let any = !user.groups.is_empty() || gaps.iter().any(Option::is_some);
        any.then(|| Self { name: name.clone(), groups: user.groups.clone(), gaps })
    }

    pub fn name(&self) -> &UserId {
        &self.name
    }

    /// Adds it to the user.
    ///
    /// # Errors
    /// When it is another's.
    pub fn read(self, user: &mut User) -> Result<(), &'static str> {
        if self.gaps.len() != user.cursors().count() {
            return Err("gaps of other devices");
        }
        user.groups = self.groups;
        for ((_, cursor), gap) in user.cursors_mut().zip(self.gaps) {
            cursor.scattered = gap;
        }
        Ok(())
    }
}

/// What of a user's own the user's other devices have still to read, as encoded: for each message how many, and
/// to whom it went.
#[derive(Serialize, Deserialize)]
pub(super) struct CopiesWire {
    name: UserId,
    messages: Vec<(u64, UserId, MessageWire)>,
}

impl CopiesWire {
    /// `None` when there is nothing to say. `body` says how each body is written.
    pub fn of(name: &UserId, user: &User, body: impl Fn(&Message) -> BodyWire) -> Option<Self> {
        let message = |waiting: &Waiting| {
            let Destination::User(to) = &waiting.message.to else { unreachable!("copies are of direct messages") };
            (waiting.held, to.clone(), MessageWire::of(&waiting.message, waiting.acked, body(&waiting.message)))
        };
        let messages: Vec<_> = user.copies().map(message).collect();
        (!messages.is_empty()).then(|| Self { name: name.clone(), messages })
    }

    pub fn name(&self) -> &UserId {
        &self.name
    }

    /// Adds it to the user.
    ///
    /// # Errors
    /// What does not fit together.
    pub fn read(self, user: &mut User, names: &mut Names) -> Result<(), &'static str> {
        let mut copies = Held::default();
        let mut last = Pos::ZERO;
        for (held, to, wire) in self.messages {
            if wire.pos <= last {
                return Err("copies out of order");
            }
            last = wire.pos;
            let acked = wire.acked;
            let to = Destination::User(intern(&mut names.users, to));
            copies.push(Waiting { message: Arc::new(wire.read(to, names)?), held, acked });
        }
        user.copies = Some(Box::new(copies));
        Ok(())
    }
}

/// A group, as encoded.
#[derive(Serialize, Deserialize)]
pub(super) struct GroupWire {
    name: GroupId,
    creator: Option<UserId>,
    members: Vec<(UserId, Pos)>,
    leavers: Vec<UserId>,
    holders: u64,
    messages: Vec<(u64, MessageWire)>,
}

impl GroupWire {
    /// `body` says how each body is written.
    pub fn of(name: &GroupId, group: &Group, body: impl Fn(&Message) -> BodyWire) -> Self {
        let message = |waiting: &Waiting| {
            let wire = MessageWire::of(&waiting.message, waiting.acked, body(&waiting.message));
            (waiting.held, wire)
        };
        Self {
            name: name.clone(),
            creator: group.creator.clone(),
            members: group.members.iter().map(|(user, since)| (user.clone(), *since)).collect(),
            leavers: group.leavers.iter().cloned().collect(),
            holders: group.holders,
            messages: group.log.iter().map(message).collect(),
        }
    }

    /// The group.
    ///
    /// # Errors
    /// What does not fit together.
    pub fn read(self, names: &mut Names) -> Result<(GroupId, Group), &'static str> {
        let mut group = Group::default();
        (group.creator, group.holders) = (self.creator, self.holders);
        let mut last = Pos::ZERO;
        for (held, wire) in self.messages {
            if wire.pos <= last || held == 0 {
                return Err("messages of a group out of order, or held by nobody");
            }
            last = wire.pos;
            let acked = wire.acked;
            let message = Arc::new(wire.read(Destination::Group(self.name.clone()), names)?);
            group.log.push(Waiting { message, held, acked });
        }
        let members = self.members.into_iter().map(|(user, since)| (intern(&mut names.users, user), since));
        group.members = Arc::new(members.collect::<Members>());
        group.leavers = self.leavers.into_iter().map(|user| intern(&mut names.users, user)).collect();
        if group.is_vacant() {
            return Err("a group about which there is nothing to know");
        }
        Ok((self.name, group))
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
