//! A user: devices, what is left of forgotten ones, and the inbox.
//!
//! Invariants: there is always somebody who holds the inbox, a device that has not lapsed or, while
//! there are no devices, the heir; a message waits exactly as long as somebody holds it.

use std::sync::Arc;

use super::command::{OUTCASTS_LEVEL, Register};
use super::device::{Cursor, Device, Heir, NEVER, Registration, Retired, deadline};
use super::effect::{Effect, RegisterRefusal};
use super::group::Membership;
use super::held::Held;
use super::inbox::Inbox;
use super::limits::Limits;
use super::message::{Message, Stored};
use super::ring::{Ring, SendResult};
use crate::id::{DeviceId, Epoch, MessageId, NodeId, Pos, UserId};
use crate::observer::Forgotten;

/// Forgotten devices of one user whose rings are still kept. At the limit those that never sent
/// make room; if all did, new devices are refused until a ring's time is over.
pub(super) const MAX_RETIRED: usize = 256;

/// Users without a device for whom something waits; anybody can make one by writing to any name. Nothing is stored for
/// further ones.
pub(super) const MAX_ABSENT: u64 = 100_000;

/// Those for whom what waits longest is of one sender, so that no one sender can use the others' room up.
pub(super) const MAX_ABSENT_OF_ONE: u64 = MAX_ABSENT / 10;

/// What a user's transitions need to know, and where their effects go.
pub(super) struct Context<'a> {
    pub now_ms: u64,
    pub limits: &'a Limits,
    pub feature_level: u32,
    pub effects: &'a mut Vec<Effect>,
}

#[derive(Debug, Clone)]
pub(super) struct User {
    /// Sorted by id; at most `limits.devices_per_user`.
    pub devices: Vec<Device>,
    /// Sorted by id; about [`MAX_RETIRED`] at most.
    pub retired: Vec<Retired>,
    /// Set exactly while there are no devices.
    pub heir: Option<Heir>,
    pub inbox: Inbox,
    /// Sorted; at most `group_limits.per_user` when one is added. What the groups know of this user's devices
    /// follows them in `State::with`.
    pub groups: Vec<Membership>,
    /// What this user's devices sent and other ones of them have still to read; `None` while that is nothing.
    pub copies: Option<Box<Held>>,
    /// No waiting message was stored before; [`NEVER`] if none can be waiting. A bound only, so
    /// that it need not move with each message; a tick that comes to it makes it exact.
    pub oldest_ms: u64,
    /// No deadline of devices, rings and heir is earlier. A bound only, too.
    pub check_ms: u64,
}

impl Default for User {
    fn default() -> Self {
        Self {
            devices: Vec::new(),
            retired: Vec::new(),
            heir: Some(Heir::default()),
            inbox: Inbox::default(),
            groups: Vec::new(),
            copies: None,
            oldest_ms: NEVER,
            check_ms: NEVER,
        }
    }
}

/// How a device comes to be forgotten.
pub(super) struct Forgetting {
    pub why: Forgotten,
    /// The node that counts it.
    pub by: Option<NodeId>,
    /// Its position in the log; no registration has the same one.
    pub at: Pos,
}

/// What an acknowledgement passed.
pub(super) struct Passed {
    pub count: u64,
    pub first: Vec<Arc<Message>>,
}

impl User {
    /// The sender of what waits longest, while there is no device to read it.
    pub fn awaited_by(&self) -> Option<&UserId> {
        self.inbox.front().filter(|_| self.devices.is_empty()).map(|slot| &slot.message.from)
    }

    /// Nothing has to be remembered of this user.
    pub fn is_vacant(&self) -> bool {
        let inherits = self.heir.is_some_and(|heir| heir.cursor.has_gap());
        self.devices.is_empty() && self.retired.is_empty() && !inherits && !self.may_be_owed()
    }

    /// Somebody may have something to read: what waits, or what comes to a group.
    pub fn may_be_owed(&self) -> bool {
        !self.groups.is_empty() || !self.inbox.is_empty() || self.has_copies()
    }

    /// The devices' cursors, or the heir's.
    pub fn cursors(&self) -> impl Iterator<Item = (Option<&Device>, &Cursor)> {
        let devices = self.devices.iter().map(|device| (Some(device), &device.cursor));
        devices.chain(self.heir.iter().map(|heir| (None, &heir.cursor)))
    }

    /// As [`User::cursors`], to change, with the node of the live session.
    pub fn cursors_mut(&mut self) -> impl Iterator<Item = (Option<NodeId>, &mut Cursor)> {
        let devices = self.devices.iter_mut().map(|device| (device.session, &mut device.cursor));
        devices.chain(self.heir.iter_mut().map(|heir| (None, &mut heir.cursor)))
    }

    /// Where the cursors are, sorted.
    pub fn positions(&self) -> Vec<Pos> {
        let mut positions: Vec<Pos> = self.cursors().map(|(_, cursor)| cursor.pos).collect();
        positions.sort_unstable();
        positions
    }

    fn find(&self, id: &DeviceId) -> Result<usize, usize> {
        self.devices.binary_search_by(|device| device.id.cmp(id))
    }

    pub fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.find(id).ok().map(|index| &self.devices[index])
    }

    pub fn retired(&self, id: &DeviceId) -> Option<&Retired> {
        self.retired.binary_search_by(|retired| retired.id.cmp(id)).ok().map(|index| &self.retired[index])
    }

    /// The device of a live session.
    ///
    /// # Panics
    /// When it is not known: a live session's device always is.
    pub fn live(&mut self, id: &DeviceId) -> &mut Device {
        let index = self.find(id).expect("a live session's device is known");
        &mut self.devices[index]
    }

    pub fn has_live(&self) -> bool {
        self.devices.iter().any(|device| device.session.is_some())
    }

    /// All that waits here, of the inbox first.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        let copies = self.copies().map(|waiting| waiting.message.as_ref());
        self.inbox.iter().map(|slot| slot.message.as_ref()).chain(copies)
    }

    /// Bytes of the waiting bodies that are in memory on this replica.
    pub fn memory_bytes(&self) -> u64 {
        self.inbox.memory_bytes() + self.held_copies().map_or(0, Held::memory_bytes)
    }

    /// Lets bodies in memory go of which `locate` knows where they are stored.
    pub fn relocate(&mut self, locate: impl Fn(Pos) -> Option<Stored>) {
        self.inbox.relocate(&locate);
        if let Some(copies) = &mut self.copies {
            copies.relocate(locate);
        }
    }

    /// Asks for a check at `due_ms` at the latest.
    pub fn check_at(&mut self, due_ms: u64) {
        self.check_ms = self.check_ms.min(due_ms);
    }

    /// Begins a session; the one that ended for it is returned.
    pub fn register(
        &mut self,
        name: &UserId,
        register: &Register,
        epoch: Epoch,
        node: NodeId,
        ctx: &mut Context,
    ) -> Result<Option<(NodeId, Epoch)>, RegisterRefusal> {
        let found = self.find(&register.device);
        let last = match found {
            Ok(index) => Some(self.devices[index].last),
            Err(_) => self.retired(&register.device).map(|retired| retired.last),
        };
        if last.is_some_and(|last| last.has_replaced(register.instance)) {
            return Err(RegisterRefusal::Replaced);
        }
        if last.is_some_and(|last| last.instance == register.instance && last.attempt > register.attempt) {
            return Err(RegisterRefusal::OlderAttempt);
        }
        let current = last.map_or(Pos::ZERO, |last| last.epoch);
        if register.expect != current {
            return Err(RegisterRefusal::Conflict { current });
        }
        let index = match found {
            Ok(index) => index,
            Err(index) => {
                self.admit(index, &register.device, epoch, ctx.limits)?;
                index
            }
        };
        let device = &mut self.devices[index];
        let ended = device.session.map(|node| (node, device.last.epoch));
        device.last = Registration::after(last, register.instance, register.attempt, epoch);
        device.ephemeral = register.ephemeral;
        device.session = Some(node);
        device.forget_ms = NEVER;
        device.ring_ms = NEVER;
        self.resume(name, index, ctx.effects);
        Ok(ended)
    }

    /// Makes a device known, at this place among the others.
    fn admit(&mut self, index: usize, id: &DeviceId, epoch: Epoch, limits: &Limits) -> Result<(), RegisterRefusal> {
        if self.devices.len() >= limits.devices_per_user as usize {
            return Err(RegisterRefusal::TooManyDevices);
        }
        let ring = match self.retired.binary_search_by(|retired| retired.id.cmp(id)) {
            Ok(index) => self.retired.remove(index).ring,
            Err(_) => {
                self.make_room()?;
                Ring::default()
            }
        };
        let cursor = match self.heir.take() {
            Some(Heir { cursor, .. }) if cursor.has_gap() || self.may_be_owed() => {
                self.inherit_copies(id);
                cursor
            }
            _ => Cursor { pos: epoch, passed: self.inbox.next(), ..Cursor::default() },
        };
        let device = Device {
            id: id.clone(),
            last: Registration::after(None, 0, 0, epoch),
            ephemeral: false,
            session: None,
            cursor,
            lapsed: None,
            forget_ms: NEVER,
            ring_ms: NEVER,
            ring,
        };
        // Most users have one device: no room for more is allocated.
        self.devices.reserve_exact(1);
        self.devices.insert(index, device);
        Ok(())
    }

    /// Keeps the number of retired devices bounded, without losing a ring (G2).
    fn make_room(&mut self) -> Result<(), RegisterRefusal> {
        if self.retired.len() < MAX_RETIRED {
            return Ok(());
        }
        let unused = self.retired.iter().enumerate().filter(|(_, retired)| retired.ring.is_empty());
        let oldest = unused.min_by_key(|(_, retired)| (retired.drop_ms, retired.last.epoch)).map(|(index, _)| index);
        match oldest {
            Some(index) => {
                self.retired.remove(index);
                Ok(())
            }
            None => Err(RegisterRefusal::TooManyForgotten),
        }
    }

    /// The connection of a device's live session was lost; it is remembered for a while.
    pub fn disconnect(&mut self, id: &DeviceId, now_ms: u64, limits: &Limits) {
        let device = self.live(id);
        device.session = None;
        let ttl_ms = if device.ephemeral { limits.ephemeral_ttl_ms } else { limits.device_ttl_ms };
        device.forget_ms = deadline(now_ms, ttl_ms);
        device.ring_ms = deadline(now_ms, limits.ring_ttl_ms);
        let due_ms = device.due_ms();
        self.check_at(due_ms);
    }

    /// Forgets a device, if it is known; its live session, if it had one, ends and is returned.
    pub fn forget(
        &mut self,
        name: &UserId,
        id: &DeviceId,
        Forgetting { why, by, at }: Forgetting,
        ctx: &mut Context,
    ) -> Option<(NodeId, Epoch)> {
        let device = self.devices.remove(self.find(id).ok()?);
        ctx.effects.push(Effect::Forgotten { why, node: by });
        // A session that was suspended meanwhile must not find its own epoch.
        let epoch = if ctx.feature_level >= OUTCASTS_LEVEL { at } else { device.last.epoch };
        let last = Registration { epoch, ..device.last };
        let ended = device.session.map(|node| (node, device.last.epoch));
        self.release_copies(&device);
        let drop_ms = match ended {
            Some(_) => deadline(ctx.now_ms, ctx.limits.ring_ttl_ms),
            None => device.ring_ms,
        };
        if drop_ms != NEVER {
            let place = self.retired.binary_search_by(|retired| retired.id.cmp(id));
            let place = place.expect_err("a known device is not retired");
            self.retired.insert(place, Retired { id: device.id, last, ring: device.ring, drop_ms });
            self.check_at(drop_ms);
        }
        if self.devices.is_empty() {
            assert!(device.lapsed.is_none(), "somebody holds the inbox");
            self.heir = Some(Heir { cursor: device.cursor, forget_ms: NEVER });
            self.date_heir(ctx.now_ms, ctx.limits);
        } else if self.devices.iter().all(|device| device.lapsed.is_some()) {
            for index in 0..self.devices.len() {
                self.resume(name, index, ctx.effects);
            }
        }
        self.trim();
        ended
    }

    /// Gives a pending gap of the heir a time to be forgotten.
    pub fn date_heir(&mut self, now_ms: u64, limits: &Limits) {
        if let Some(heir) = &mut self.heir
            && heir.cursor.has_gap()
        {
            heir.forget_ms = deadline(now_ms, limits.device_ttl_ms);
            let due_ms = heir.forget_ms;
            self.check_at(due_ms);
        }
    }

    /// Moves the cursor of a live session's device, at `now` in the log. Within a pending gap of the
    /// inbox it stays, but for what is read of groups and copies: what was lost is passed as a whole, and
    /// not counted as received.
    pub fn ack(&mut self, id: &DeviceId, upto: Pos, now: Pos) -> Passed {
        let mut passed = Passed { count: 0, first: Vec::new() };
        let index = self.find(id).expect("a live session's device is known");
        let beside = !self.groups.is_empty() || self.has_copies();
        let device = &mut self.devices[index];
        let cursor = &mut device.cursor;
        let lost = cursor.scattered.map_or(Pos::ZERO, |gap| gap.seq);
        let upto = upto.min(if beside { now } else { self.inbox.last().max(lost) });
        let within_gap = cursor.gap.is_some_and(|gap| upto < gap.seq);
        if upto <= cursor.pos || (within_gap && !beside && cursor.scattered.is_none()) {
            return passed;
        }
        let (before, scattered) = (cursor.pos, cursor.scattered.filter(|gap| upto < gap.seq));
        if within_gap {
            *cursor = Cursor { pos: upto, scattered, ..*cursor };
            passed.count = self.pass_copies(id, before, upto);
            return passed;
        }
        let front = cursor.front();
        let next = self.inbox.ordinal_after(upto);
        *cursor = Cursor { pos: upto, passed: next, gap: None, scattered };
        passed.count = next - front + self.pass_copies(id, before, upto);
        for slot in self.inbox.range_mut(front..next) {
            if !slot.acked {
                slot.acked = true;
                passed.first.push(slot.message.clone());
            }
        }
        if front == self.inbox.base() {
            self.trim();
        }
        passed
    }

    /// The ordinal of the first message that a device which has not lapsed, or the heir, still holds.
    fn held_from(&self) -> u64 {
        let devices = self.devices.iter().filter_map(Device::holds);
        let heir = self.heir.iter().map(|heir| heir.cursor.front());
        devices.chain(heir).min().expect("somebody holds the inbox")
    }

    /// Lets the messages go that nobody holds.
    pub fn trim(&mut self) {
        self.inbox.drop_before(self.held_from());
    }

    /// The first result of a send of this device, if it is known.
    pub fn sent(&self, id: &DeviceId, mid: &MessageId) -> Option<SendResult> {
        self.device(id)?.ring.find(mid)
    }
}
