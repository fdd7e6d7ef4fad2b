//! Freezing the state at one index, and restoring it.
//!
//! Invariant: a frozen state plus the rest of the log equals the whole log. Freezing costs one
//! reference per changed shard; everything slow is done on what was frozen.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::command::FEATURE_LEVEL;
use super::limits::{GroupLimits, Limits};
use super::machine::{Session, State};
use super::message::{Body, Message, Stored};
use super::nodes::NodeRecord;
use super::revocation::Revocation;
use super::shard::Shard;
use super::wire::{BodyWire, CopiesWire, GroupWire, GroupsOfUser, Names, UserWire};
use crate::id::{Boot, Generation, NodeId, Pos, UserId};

/// First byte of an encoded head or shard in which there is nothing of groups: builds that know none
/// read it.
const FORMAT: u8 = 1;

/// First byte of one in which there is.
const FORMAT_WITH_GROUPS: u8 = 2;

/// First byte of an encoded head while the breaker is open, or tokens are revoked.
const FORMAT_WITH_SWITCHES: u8 = 3;

/// First byte of an encoded shard in which copies wait for their sender's other devices.
const FORMAT_WITH_COPIES: u8 = 4;

/// The state as it was after one log entry.
#[derive(Debug)]
pub struct Frozen {
    /// The log entry's index.
    pub index: u64,
    /// All but the users, encoded.
    pub head: Bytes,
    /// Shards changed since the last freeze, by number. Encode them with [`Shard::encode`].
    pub shards: Vec<(usize, Arc<Shard>)>,
}

/// Bytes that are no part of a checkpoint of this build.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Written by another build.
    #[error(
        "a checkpoint of format {0}, this build reads up to format {FORMAT_WITH_COPIES}: run the newer build on this node"
    )]
    Format(u8),
    /// Of a cluster whose nodes all knew more.
    #[error(
        "a checkpoint of feature level {0}, this build knows levels up to {FEATURE_LEVEL}: run the newer build on this node"
    )]
    Level(u32),
    /// Not well-formed.
    #[error("a checkpoint that cannot be read: {0}")]
    Malformed(String),
    /// Well-formed, but no state can look like this.
    #[error("a checkpoint that contradicts itself: {0}")]
    Contradiction(&'static str),
}

#[derive(Serialize, Deserialize)]
struct HeadWire {
    applied: u64,
    time_ms: u64,
    feature_level: u32,
    limits: Limits,
    nodes: Vec<NodeWire>,
}

/// The limits of groups, if they are set; whether the breaker is open; whose tokens are revoked.
type Switches = (Option<GroupLimits>, bool, Vec<RevocationWire>);
/// A user's revocation: the time that counts, and when it is forgotten.
type RevocationWire = (UserId, u64, u64);

/// The groups of a shard, and what its users have to do with groups.
type GroupsWire = (Vec<GroupsOfUser>, Vec<GroupWire>);

#[derive(Serialize, Deserialize)]
struct NodeWire {
    id: NodeId,
    boot: Boot,
    incarnation: u32,
    generation: Option<Generation>,
    next_seq: u64,
    client_url: String,
    feature_level: u32,
}

/// The value, and what there is of groups, if there is anything.
fn write<T: Serialize, G: Serialize>(value: &T, groups: Option<&G>) -> Vec<u8> {
    let bytes = match groups {
        None => postcard::to_extend(value, vec![FORMAT]),
        Some(groups) => postcard::to_extend(&(value, groups), vec![FORMAT_WITH_GROUPS]),
    };
    bytes.expect("encoding into memory cannot fail")
}

fn all<'a, V: Deserialize<'a>>(bytes: &'a [u8]) -> Result<V, RestoreError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(RestoreError::Malformed("trailing bytes".into())),
        Err(error) => Err(RestoreError::Malformed(error.to_string())),
    }
}

fn read<'a, T: Deserialize<'a>, G: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, Option<G>), RestoreError> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => all(rest).map(|value| (value, None)),
        Some((&FORMAT_WITH_GROUPS, rest)) => all(rest).map(|(value, groups)| (value, Some(groups))),
        Some((&format, _)) => Err(RestoreError::Format(format)),
        None => Err(RestoreError::Malformed("empty".into())),
    }
}

impl Shard {
    /// The shard's section of a checkpoint. `stored` says where bodies have been put, from memory
    /// or from where they were stored before; one in memory that it does not mention is written
    /// into the section itself.
    #[must_use]
    pub fn encode(&self, stored: &BTreeMap<Pos, Stored>) -> Bytes {
        let body = |message: &Message| match (&message.body, stored.get(&message.pos)) {
            (_, Some(stored)) | (Body::Stored(stored), None) => BodyWire::Stored(*stored),
            (Body::Memory(bytes), None) => BodyWire::Inline(bytes.clone()),
        };
        let users: Vec<_> = self.users.iter().map(|(name, user)| UserWire::of(name, user, body)).collect();
        let groups = self.groups_wire(body);
        let copies = self.copies_wire(body);
        if copies.is_empty() {
            return write(&users, groups.as_ref()).into();
        }
        let all = (users, groups.unwrap_or_default(), copies);
        postcard::to_extend(&all, vec![FORMAT_WITH_COPIES]).expect("encoding into memory cannot fail").into()
    }

    fn copies_wire(&self, body: impl Fn(&Message) -> BodyWire + Copy) -> Vec<CopiesWire> {
        self.users.iter().filter_map(|(name, user)| CopiesWire::of(name, user, body)).collect()
    }

    /// What is there of groups, if there is anything.
    fn groups_wire(&self, body: impl Fn(&Message) -> BodyWire + Copy) -> Option<GroupsWire> {
        let of_users: Vec<_> = self.users.iter().filter_map(|(name, user)| GroupsOfUser::of(name, user)).collect();
        let groups: Vec<_> = self.groups.iter().map(|(name, group)| GroupWire::of(name, group, body)).collect();
        (!of_users.is_empty() || !groups.is_empty()).then_some((of_users, groups))
    }

    /// Reads a section.
    ///
    /// # Errors
    /// When it is none that this build could have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, RestoreError> {
        let mut names = Names::default();
        let mut users = BTreeMap::new();
        let (in_bytes, of_groups, copies) = match bytes.split_first() {
            Some((&FORMAT_WITH_COPIES, rest)) => {
                let (users, groups, copies): (Vec<UserWire>, GroupsWire, Vec<CopiesWire>) = all(rest)?;
                (users, Some(groups), copies)
            }
            _ => read::<Vec<UserWire>, GroupsWire>(bytes).map(|(users, groups)| (users, groups, Vec::new()))?,
        };
        for user in in_bytes {
            let (name, user) = user.read(&mut names).map_err(RestoreError::Contradiction)?;
            if users.insert(name, user).is_some() {
                return Err(RestoreError::Contradiction("a user who is there twice"));
            }
        }
        let mut groups = BTreeMap::new();
        let (of_users, in_bytes) = of_groups.unwrap_or_default();
        for of_user in of_users {
            let user = users.get_mut(of_user.name());
            let user = user.ok_or(RestoreError::Contradiction("groups of a user who is not there"))?;
            of_user.read(user).map_err(RestoreError::Contradiction)?;
        }
        for of_user in copies {
            let user = users.get_mut(of_user.name());
            let user = user.ok_or(RestoreError::Contradiction("copies of a user who is not there"))?;
            of_user.read(user, &mut names).map_err(RestoreError::Contradiction)?;
        }
        for group in in_bytes {
            let (name, group) = group.read(&mut names).map_err(RestoreError::Contradiction)?;
            if groups.insert(name, Arc::new(group)).is_some() {
                return Err(RestoreError::Contradiction("a group that is there twice"));
            }
        }
        for user in users.values() {
            user.audit().map_err(RestoreError::Contradiction)?;
        }
        let users = users.into_iter().map(|(name, user)| (name, Arc::new(user))).collect();
        Ok(Self { users, groups })
    }
}

impl State {
    /// Freezes the state. Shards not in the result are as they were when last frozen, or, if they
    /// never were, as restored, or empty.
    pub fn freeze(&mut self) -> Frozen {
        let head = self.encode_head(self.applied).into();
        Frozen { index: self.applied, head, shards: self.store.take_dirty() }
    }

    /// Makes the next freeze include this shard.
    ///
    /// # Panics
    /// When there is no such shard.
    pub fn mark_dirty(&mut self, shard: usize) {
        self.store.mark_dirty(shard);
    }

    /// The state that was frozen. Shards not given are empty.
    ///
    /// # Errors
    /// When the parts cannot be of one state.
    pub fn restore(head: &[u8], shards: Vec<(usize, Shard)>) -> Result<Self, RestoreError> {
        let (head, (group_limits, breaker_open, revocations)) = match head.split_first() {
            Some((&FORMAT_WITH_SWITCHES, rest)) => all::<(HeadWire, Switches)>(rest)?,
            _ => read::<HeadWire, GroupLimits>(head).map(|(head, groups)| (head, (groups, false, Vec::new())))?,
        };
        if head.feature_level > FEATURE_LEVEL {
            return Err(RestoreError::Level(head.feature_level));
        }
        let mut state = Self::new();
        state.group_limits = group_limits;
        state.breaker_open = breaker_open;
        for (user, before_ms, forget_ms) in revocations {
            if state.revocations.0.insert(user, Revocation { before_ms, forget_ms }).is_some() {
                return Err(RestoreError::Contradiction("a user whose tokens are revoked twice"));
            }
        }
        state.applied = head.applied;
        state.time_ms = head.time_ms;
        state.feature_level = head.feature_level;
        state.limits = head.limits;
        for node in head.nodes {
            let record = NodeRecord {
                boot: node.boot,
                incarnation: node.incarnation,
                generation: node.generation,
                next_seq: node.next_seq,
                client_url: node.client_url,
                feature_level: node.feature_level,
                sessions: 0,
            };
            state.nodes.insert(node.id, record);
        }
        for (id, shard) in shards {
            state.add_sessions(&shard).map_err(RestoreError::Contradiction)?;
            state.store.insert(id, shard).map_err(RestoreError::Contradiction)?;
        }
        state.audit_groups().map_err(RestoreError::Contradiction)?;
        Ok(state)
    }

    /// Derives the sessions of a shard.
    fn add_sessions(&mut self, shard: &Shard) -> Result<(), &'static str> {
        for (name, user) in &shard.users {
            for device in &user.devices {
                let Some(node) = device.session else { continue };
                if self.nodes.get(node).is_none_or(|record| record.generation.is_none()) {
                    return Err("a session on a node that is down");
                }
                let session = Session { user: name.clone(), device: device.id.clone(), node };
                if self.sessions.insert(device.last.epoch, session).is_some() {
                    return Err("two sessions with one epoch");
                }
                self.nodes.add_session(node, device.last.epoch);
            }
        }
        Ok(())
    }

    /// Points bodies to where a checkpoint has put them, and so out of memory: those of these
    /// messages that still wait. Let go of what was frozen first, or the shard is copied for it.
    ///
    /// # Panics
    /// When there is no such shard, or a stored body has another length.
    pub fn evict(&mut self, shard: usize, bodies: &[(Pos, Stored)]) {
        if !bodies.is_empty() {
            let stored: HashMap<Pos, Stored> = bodies.iter().copied().collect();
            self.store.relocate(shard, |shard| shard.evict(&stored));
        }
    }

    /// All but the users, as it is with this entry applied, in the oldest format that can say it.
    fn encode_head(&self, applied: u64) -> Vec<u8> {
        let head = HeadWire { applied, ..self.head() };
        if !self.breaker_open && self.revocations.0.is_empty() {
            return write(&head, self.group_limits.as_ref());
        }
        let revocations = self.revocations.0.iter();
        let revocations = revocations.map(|(user, revoked)| (user, revoked.before_ms, revoked.forget_ms));
        let switches = (&self.group_limits, self.breaker_open, revocations.collect::<Vec<_>>());
        postcard::to_extend(&(head, switches), vec![FORMAT_WITH_SWITCHES]).expect("encoding into memory cannot fail")
    }

    fn head(&self) -> HeadWire {
        let node = |(id, record): (NodeId, &NodeRecord)| NodeWire {
            id,
            boot: record.boot,
            incarnation: record.incarnation,
            generation: record.generation,
            next_seq: record.next_seq,
            client_url: record.client_url.clone(),
            feature_level: record.feature_level,
        };
        HeadWire {
            applied: self.applied,
            time_ms: self.time_ms,
            feature_level: self.feature_level,
            limits: self.limits.clone(),
            nodes: self.nodes.iter().map(node).collect(),
        }
    }

    /// A hash of all that is replicated: equal states, equal hashes. Not in it are where bodies are
    /// (a message's id stands for its body) and how many log entries led here. Costs as much as
    /// the state is big.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        let body = |message: &Message| BodyWire::Hashed(message.body.len() as u64);
        part(&self.encode_head(0));
        let shards = self.store.shards().iter().enumerate();
        for (id, shard) in shards.filter(|(_, shard)| !shard.users.is_empty() || !shard.groups.is_empty()) {
            part(&(id as u64).to_be_bytes());
            for (name, user) in &shard.users {
                part(&write(&UserWire::of(name, user, body), None::<&()>));
            }
            if let Some(groups) = shard.groups_wire(body) {
                part(&write(&groups, None::<&()>));
            }
            for copies in shard.copies_wire(body) {
                part(&write(&copies, None::<&()>));
            }
        }
        hash.finalize().into()
    }
}
