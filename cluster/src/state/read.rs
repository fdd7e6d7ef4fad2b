//! What nodes read from the state: they never change it but through the log.

use std::iter::{Peekable, once};
use std::ops::Bound;
use std::sync::Arc;

use super::device::{Device, GapReason, NEVER, Registration};
use super::limits::{GroupLimits, Limits};
use super::machine::State;
use super::message::{Destination, Message};
use super::nodes::NodeRecord;
use super::store::Totals;
use super::user::User;
use crate::id::{DeviceId, Epoch, GroupId, MessageId, NodeId, Pos, UserId};

/// A device as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceView {
    /// Position of its last registration, or of its forgetting: what the next one must expect.
    pub last_epoch: Epoch,
    /// The live session.
    pub session: Option<SessionView>,
    /// All messages up to here are acknowledged; [`Pos::ZERO`] when `known` is false.
    pub cursor: Pos,
    /// False: the device was forgotten, and only its last epoch and its dedup ring are kept.
    pub known: bool,
    /// It was away when the inbox was full: it holds no messages, and gets a gap when it is back.
    pub lapsed: bool,
}

/// A device's last registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRegistration {
    /// It; of a forgotten device, with the position of its forgetting for an epoch.
    pub of: Registration,
    /// The device was not forgotten since.
    pub known: bool,
}

/// A live session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionView {
    /// Position of its registration.
    pub epoch: Epoch,
    /// The node that holds the connection.
    pub node: NodeId,
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its place.
    pub seq: Pos,
    /// Devices that have not acknowledged it.
    pub devices: Vec<DeviceId>,
}

/// What a device finds in its inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A message.
    Message(Arc<Message>),
    /// The device missed messages. Acknowledged like a message.
    Gap {
        /// Position of the last message missed.
        seq: Pos,
        /// Why the messages are gone.
        reason: GapReason,
        /// How many, counted from the device's cursor.
        lost: u64,
    },
}

impl Item {
    /// Its place in the log: what an acknowledgement names.
    #[must_use]
    pub fn seq(&self) -> Pos {
        match self {
            Self::Message(message) => message.pos,
            Self::Gap { seq, .. } => *seq,
        }
    }
}

/// Items of one kind that a device has to read, in log order.
type Source<'a> = Box<dyn Iterator<Item = Head<'a>> + 'a>;

/// The next of a source, which may stay there.
enum Head<'a> {
    Gap(Item),
    Message(&'a Arc<Message>),
}

impl Head<'_> {
    fn pos(&self) -> Pos {
        match self {
            Self::Gap(gap) => gap.seq(),
            Self::Message(message) => message.pos,
        }
    }

    /// Bytes of the body.
    fn len(&self) -> usize {
        match self {
            Self::Gap(_) => 0,
            Self::Message(message) => message.body.len(),
        }
    }

    fn into_item(self) -> Item {
        match self {
            Self::Gap(gap) => gap,
            Self::Message(message) => Item::Message(message.clone()),
        }
    }
}

impl State {
    /// Index of the last log entry applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The replicated limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The replicated limits of groups.
    #[must_use]
    pub fn group_limits(&self) -> GroupLimits {
        self.group_limits.clone().unwrap_or_default()
    }

    /// Whether there can be groups: their limits are set as soon as all members know of groups.
    #[must_use]
    pub fn has_groups(&self) -> bool {
        self.group_limits.is_some()
    }

    /// Whether messages are stored, and delivered to nobody.
    #[must_use]
    pub fn breaker_open(&self) -> bool {
        self.breaker_open
    }

    /// Up to `count` members of a group in the order of their names, behind `after`, and whether
    /// there are more; `None` when there is no such group.
    #[must_use]
    pub fn members(&self, group: &GroupId, after: Option<&UserId>, count: usize) -> Option<(Vec<UserId>, bool)> {
        let group = self.store.group(group).filter(|group| group.exists())?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut members = group.members.range::<UserId, _>((from, Bound::Unbounded)).map(|(user, _)| user.clone());
        let page: Vec<UserId> = members.by_ref().take(count).collect();
        let more = members.next().is_some();
        Some((page, more))
    }

    /// Whether the user is a member of the group.
    #[must_use]
    pub fn is_member(&self, group: &GroupId, user: &UserId) -> bool {
        self.store.group(group).is_some_and(|group| group.members.contains_key(user))
    }

    /// Commands up to this level are in the log, or may be.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// Replicated time, ms since the cluster began.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// A device that is known, or was until lately.
    #[must_use]
    pub fn device(&self, user: &UserId, device: &DeviceId) -> Option<DeviceView> {
        let user = self.store.user(user)?;
        if let Some(device) = user.device(device) {
            return Some(DeviceView {
                last_epoch: device.last.epoch,
                session: device.session.map(|node| SessionView { epoch: device.last.epoch, node }),
                cursor: device.cursor.pos,
                known: true,
                lapsed: device.lapsed.is_some(),
            });
        }
        let retired = user.retired(device)?;
        let last_epoch = retired.last.epoch;
        Some(DeviceView { last_epoch, session: None, cursor: Pos::ZERO, known: false, lapsed: false })
    }

    /// The last registration of a device that is known, or was until lately.
    #[must_use]
    pub fn last_registration(&self, user: &UserId, device: &DeviceId) -> Option<LastRegistration> {
        let user = self.store.user(user)?;
        let known = user.device(device).map(|device| LastRegistration { of: device.last, known: true });
        known.or_else(|| user.retired(device).map(|retired| LastRegistration { of: retired.last, known: false }))
    }

    /// The devices of a user that have live sessions, and on which nodes.
    pub fn sessions_of(&self, user: &UserId) -> impl Iterator<Item = (&DeviceId, NodeId)> {
        let devices = self.store.user(user).into_iter().flat_map(|user| &user.devices);
        devices.filter_map(|device| Some((&device.id, device.session?)))
    }

    /// Whether a session of the user ended within the last `within_ms` of replicated time, as far as is
    /// remembered, which is about as long as a device's answers are. Wrong for a moment where the limit on that
    /// was changed since.
    #[must_use]
    pub fn has_just_left(&self, user: &UserId, within_ms: u64) -> bool {
        let Some(user) = self.store.user(user) else { return false };
        let rings = user.devices.iter().map(|device| device.ring_ms);
        let mut rings = rings.chain(user.retired.iter().map(|retired| retired.drop_ms));
        let since_ms = self.time_ms.saturating_sub(within_ms);
        rings.any(|ring_ms| ring_ms != NEVER && ring_ms.saturating_sub(self.limits.ring_ttl_ms) >= since_ms)
    }

    /// A live session's user, device and node.
    #[must_use]
    pub fn session(&self, epoch: Epoch) -> Option<(&UserId, &DeviceId, NodeId)> {
        self.sessions.get(&epoch).map(|session| (&session.user, &session.device, session.node))
    }

    /// A node, up or down.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(id)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        self.nodes.iter()
    }

    /// What waits for a device strictly behind `after` and its cursor, in log order, a pending gap
    /// first: at most `max_count` items and `max_bytes` of bodies, but one item if there is any.
    #[must_use]
    pub fn inbox(&self, user: &UserId, device: &DeviceId, after: Pos, max_count: usize, max_bytes: usize) -> Vec<Item> {
        let mut items = Vec::new();
        let Some(user) = self.store.user(user) else { return items };
        let Some(device) = user.device(device).filter(|device| device.lapsed.is_none()) else { return items };
        let mut sources = self.sources(user, device, after);
        let mut bytes = 0;
        loop {
            // What is first of all; sources are few, and positions one item's each.
            let heads = sources.iter_mut().enumerate().filter_map(|(at, source)| Some((source.peek()?.pos(), at)));
            let Some((_, at)) = heads.min() else { break };
            let Some(next) = sources[at].next() else { break };
            bytes += next.len();
            if !items.is_empty() && (items.len() >= max_count || bytes > max_bytes) {
                break;
            }
            items.push(next.into_item());
        }
        items
    }

    /// What a device has to read behind `after`: its gaps, its user's inbox, what its user's other devices sent,
    /// its user's groups; each in log order.
    fn sources<'a>(&'a self, user: &'a User, device: &'a Device, after: Pos) -> Vec<Peekable<Source<'a>>> {
        let cursor = &device.cursor;
        let gap = cursor.gap.map(|gap| Item::Gap { seq: gap.seq, reason: gap.reason, lost: cursor.lost() });
        let scattered = cursor.scattered.map(|gap| Item::Gap { seq: gap.seq, reason: gap.reason, lost: gap.lost });
        let gaps = [gap, scattered].into_iter().flatten().filter(move |gap| gap.seq() > after);
        let from = cursor.front().max(user.inbox.ordinal_after(after));
        let own = user.inbox.from(from).map(|slot| Head::Message(&slot.message));
        let mut sources: Vec<Source<'a>> = gaps.map(|gap| Box::new(once(Head::Gap(gap))) as Source<'a>).collect();
        sources.push(Box::new(own));
        if user.has_copies() {
            sources.push(Box::new(user.copies_for(&device.id, cursor.pos.max(after)).map(Head::Message)));
        }
        for membership in &user.groups {
            let Some(group) = self.store.group(&membership.group) else { continue };
            let mut waiting = group.log.range(membership.range(cursor.pos.max(after))).peekable();
            if waiting.peek().is_some() {
                sources.push(Box::new(waiting.map(|waiting| Head::Message(&waiting.message))));
            }
        }
        sources.into_iter().map(Iterator::peekable).collect()
    }

    /// Where a message waits that went to `to`: its place, and which of a user's devices have still to acknowledge it;
    /// those of a group's members are not looked for. Looks through the whole inbox.
    #[must_use]
    pub fn whereabouts(&self, to: &Destination, mid: &MessageId) -> Option<Whereabouts> {
        match to {
            Destination::User(name) => {
                let user = self.store.user(name)?;
                let seq = user.inbox.iter().find(|slot| slot.message.mid == *mid)?.pos;
                let owed = user.devices.iter().filter(|device| device.lapsed.is_none() && device.cursor.pos < seq);
                Some(Whereabouts { seq, devices: owed.map(|device| device.id.clone()).collect() })
            }
            Destination::Group(name) => {
                let seq = self.store.group(name)?.log.iter().find(|waiting| waiting.message.mid == *mid)?.message.pos;
                Some(Whereabouts { seq, devices: Vec::new() })
            }
        }
    }

    /// How much there is; at no cost.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            sessions: self.sessions.len() as u64,
            revocations: self.revocations.0.len() as u64,
            ..self.store.totals()
        }
    }
}
