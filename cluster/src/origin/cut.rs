//! When the next batch is cut, and what goes into it.

use std::time::Duration;

use super::slot::{Did, Slot, Stage};
use super::{InFlight, Key, Origin};
use crate::env::clock::Instant;
use crate::id::{DeviceId, Pos, UserId};
use crate::state::{Batch, Op, Register, Registration};

/// Cursor moves wait this long for a batch to ride along with.
pub const ACK_LINGER: Duration = Duration::from_millis(50);

/// Batches are cut at least this far apart. A batch costs every replica a round of Raft and an
/// fsync, whatever it holds: under load a little patience buys much larger ones, and so a shorter
/// queue; a batch that comes alone does not wait.
pub const CUT_EVERY: Duration = Duration::from_millis(3);

/// A batch is cut at this many bytes of bodies: larger entries delay the heartbeats behind them.
const BATCH_BYTES: usize = 256 << 10;

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
        replica: &Replica<impl Fn(&UserId, &DeviceId) -> Option<Registration>>,
    ) -> Option<Batch> {
        let generation = self.generation?;
        if self.in_flight.is_some() || self.next_deadline().is_none_or(|deadline| deadline > now) {
            return None;
        }
        let (mut ops, mut did, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(key) = self.next_in_turn() {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            let full = take(slot, key, &mut ops, &mut did, &mut bytes, replica);
            if full {
                slot.ready = true;
                self.ready.push_front(key);
                break;
            }
        }
        if ops.is_empty() {
            return None;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.last_cut = now;
        self.in_flight = Some(InFlight { seq, did });
        Some(Batch { node: self.node, generation, seq, ops })
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

/// Moves what the session wants into the batch; true when the batch is full and more is left.
fn take(
    slot: &mut Slot,
    key: Key,
    ops: &mut Vec<Op>,
    did: &mut Vec<(Key, Did)>,
    bytes: &mut usize,
    replica: &Replica<impl Fn(&UserId, &DeviceId) -> Option<Registration>>,
) -> bool {
    // Room for a session's cursor move and close beside its last send.
    let full = |ops: &Vec<Op>, bytes: usize| ops.len() + 3 > Pos::MAX_OPS || bytes >= BATCH_BYTES;
    if full(ops, *bytes) {
        return true;
    }
    let Some(epoch) = slot.stage.epoch() else {
        if slot.stage == Stage::Unregistered && !slot.registering && slot.closing.is_none() {
            slot.registering = true;
            let spec = &slot.spec;
            ops.push(Op::Register(Register {
                user: spec.user.clone(),
                device: spec.device.clone(),
                instance: spec.instance,
                attempt: spec.attempt,
                ephemeral: spec.ephemeral,
                expect: slot.expect((replica.last)(&spec.user, &spec.device)),
            }));
            did.push((key, Did::Register));
        }
        return false;
    };
    while slot.confirmed
        && let Some((token, op, body_bytes)) = slot.next_op(epoch, replica.feature_level)
    {
        *bytes += body_bytes;
        ops.push(op);
        did.push((key, Did::Ask(token)));
        if full(ops, *bytes) && slot.has_unproposed() {
            return true;
        }
    }
    if let Some(upto) = slot.ack.take_if(|_| slot.confirmed) {
        ops.push(Op::Ack { epoch, upto });
        did.push((key, Did::Ack));
    }
    if let Some(clean) = slot.closing
        && !slot.close_proposed
    {
        slot.close_proposed = true;
        ops.push(Op::Close { epoch, clean });
        did.push((key, Did::Close));
    }
    false
}
