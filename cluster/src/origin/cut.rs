//! When the next batch is cut, and what goes into it.
//!
//! Sessions take turns, as packets' queues do in a fair scheduler (round robin with a quantum of bytes, after Shreedhar
//! and Varghese, "Efficient Fair Queuing using Deficit Round Robin", 1995): whoever sends much delays nobody else by
//! more than a turn. Cursor moves that are due go before all: they cost next to nothing, and make room in inboxes.

use std::time::Duration;

use super::slot::{Did, Slot, Stage};
use super::{InFlight, Key, Origin};
use crate::env::clock::Instant;
use crate::id::{DeviceId, Pos, UserId};
use crate::state::{Batch, LastRegistration, Op, Register};

/// Cursor moves wait this long for a batch to ride along with.
pub const ACK_LINGER: Duration = Duration::from_millis(50);

/// Batches are cut at least this far apart. A batch costs every replica a round of Raft and an
/// fsync, whatever it holds: under load a little patience buys much larger ones, and so a shorter
/// queue; a batch that comes alone does not wait.
pub const CUT_EVERY: Duration = Duration::from_millis(3);

/// A batch is cut at this many bytes of bodies: larger entries delay the heartbeats behind them.
const BATCH_BYTES: usize = 256 << 10;

/// A session's turn ends with the message that brings it to this many bytes of bodies.
const TURN_BYTES: usize = 64 << 10;

/// And after this many operations.
const TURN_OPS: usize = 256;

/// What a batch is cut to fit, as this replica knows it.
pub struct Replica<F> {
    /// The cluster's feature level.
    pub feature_level: u32,
    /// A device's last registration.
    pub last: F,
}

impl Origin {
    /// When [`Origin::cut`] will have something although nothing new was asked.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let acks = self.lingering.front().map(|&(since, _)| since + ACK_LINGER);
        let next_cut = self.last_cut + CUT_EVERY;
        if self.ready.is_empty() { acks.map(|due| due.max(next_cut)) } else { Some(next_cut) }
    }

    /// The next batch, if there is a generation, none in flight, and something to do now.
    pub fn cut(
        &mut self,
        now: Instant,
        replica: &Replica<impl Fn(&UserId, &DeviceId) -> Option<LastRegistration>>,
    ) -> Option<Batch> {
        let generation = self.generation?;
        if self.in_flight.is_some() || self.next_deadline().is_none_or(|deadline| deadline > now) {
            return None;
        }
        let mut cut = Cut::default();
        self.take_due_acks(now, &mut cut);
        while !cut.is_full()
            && let Some(key) = self.next_in_turn()
        {
            if let Some(slot) = self.slots.get_mut(&key)
                && cut.take(key, slot, replica)
            {
                slot.ready = true;
                self.ready.push_back(key);
            }
        }
        let Cut { ops, did, .. } = cut;
        if ops.is_empty() {
            return None;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.last_cut = now;
        self.in_flight = Some(InFlight { seq, did });
        Some(Batch { node: self.node, generation, seq, ops })
    }

    /// Cursor moves that have waited for long enough.
    fn take_due_acks(&mut self, now: Instant, cut: &mut Cut) {
        while cut.ops.len() < Pos::MAX_OPS / 2
            && let Some((_, key)) = self.lingering.pop_front_if(|(since, _)| *since + ACK_LINGER <= now)
        {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.lingers = false;
                cut.take_ack(key, slot);
            }
        }
    }

    /// Ready sessions first, then cursor moves that ride along.
    fn next_in_turn(&mut self) -> Option<Key> {
        if let Some(key) = self.ready.pop_front() {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.ready = false;
            }
            return Some(key);
        }
        let (_, key) = self.lingering.pop_front()?;
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.lingers = false;
        }
        Some(key)
    }
}

/// A batch in the making.
#[derive(Default)]
struct Cut {
    ops: Vec<Op>,
    did: Vec<(Key, Did)>,
    /// Of bodies.
    bytes: usize,
}

impl Cut {
    /// Whether there is no room for a session's cursor move, a send and a close.
    fn is_full(&self) -> bool {
        self.ops.len() + 3 > Pos::MAX_OPS || self.bytes >= BATCH_BYTES
    }

    fn push(&mut self, key: Key, did: Did, op: Op) {
        self.ops.push(op);
        self.did.push((key, did));
    }

    /// Moves what the session wants into the batch; true if its turn is over and more is left.
    fn take(
        &mut self,
        key: Key,
        slot: &mut Slot,
        replica: &Replica<impl Fn(&UserId, &DeviceId) -> Option<LastRegistration>>,
    ) -> bool {
        let Some(epoch) = slot.stage.epoch() else {
            self.take_register(key, slot, replica);
            return false;
        };
        self.take_ack(key, slot);
        let (ops, bytes) = (self.ops.len() + TURN_OPS, self.bytes + TURN_BYTES);
        while slot.confirmed
            && let Some((token, op, body_bytes)) = slot.next_op(epoch, replica.feature_level)
        {
            self.bytes += body_bytes;
            self.push(key, Did::Ask(token), op);
            if (self.is_full() || self.ops.len() >= ops || self.bytes >= bytes) && slot.has_unproposed() {
                return true;
            }
        }
        if let Some(clean) = slot.closing
            && !slot.close_proposed
        {
            slot.close_proposed = true;
            self.push(key, Did::Close, Op::Close { epoch, clean });
        }
        false
    }

    fn take_register(
        &mut self,
        key: Key,
        slot: &mut Slot,
        replica: &Replica<impl Fn(&UserId, &DeviceId) -> Option<LastRegistration>>,
    ) {
        if slot.stage == Stage::Unregistered && !slot.registering && slot.closing.is_none() {
            slot.registering = true;
            let spec = &slot.spec;
            let register = Register {
                user: spec.user.clone(),
                device: spec.device.clone(),
                instance: spec.instance,
                attempt: spec.attempt,
                ephemeral: spec.ephemeral,
                expect: slot.expect((replica.last)(&spec.user, &spec.device)),
            };
            self.push(key, Did::Register, Op::Register(register));
        }
    }

    fn take_ack(&mut self, key: Key, slot: &mut Slot) {
        if let Some(epoch) = slot.stage.epoch()
            && let Some(upto) = slot.ack.take_if(|_| slot.confirmed)
        {
            self.push(key, Did::Ack, Op::Ack { epoch, upto });
        }
    }
}
