//! Messages that several devices read by their cursors, each stored once.
//!
//! Invariant: a message waits exactly as long as a device holds it. How many do is counted, so that no
//! acknowledgement looks at other devices.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::command::SHARES_LEVEL;
use super::device::NEVER;
use super::inbox::memory;
use super::limits::Limits;
use super::message::{Body, Message, Stored};
use crate::id::Pos;

/// At its limit this part of what may wait is let go at once: it may take a look at many devices.
const DROPPED_PART: u32 = 8;

/// A message that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub message: Arc<Message>,
    /// Devices that hold it; a user without devices counts as one.
    pub held: u64,
    /// Some device of a recipient other than the sender acknowledged it.
    pub acked: bool,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    log: BTreeMap<Pos, Waiting>,
    bytes: u64,
    memory: u64,
}

fn between(after: Pos, upto: Pos) -> (Bound<Pos>, Bound<Pos>) {
    (Bound::Excluded(after), Bound::Included(upto.max(after)))
}

impl Held {
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Bytes of the waiting bodies.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the waiting bodies that are in memory on this replica.
    pub fn memory_bytes(&self) -> u64 {
        self.memory
    }

    /// When the oldest waiting message was stored, on replicated time; [`NEVER`] if none waits.
    pub fn oldest_ms(&self) -> u64 {
        self.log.values().next().map_or(NEVER, |waiting| waiting.message.stored_at_ms)
    }

    /// The waiting messages, in log order.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.log.values()
    }

    /// The waiting messages behind the first position, up to the second.
    pub fn range(&self, (after, upto): (Pos, Pos)) -> impl Iterator<Item = &Waiting> {
        self.log.range(between(after, upto)).map(|(_, waiting)| waiting)
    }

    /// Whether any message waits there.
    pub fn has(&self, range: (Pos, Pos)) -> bool {
        self.range(range).next().is_some()
    }

    pub fn push(&mut self, waiting: Waiting) {
        let message = &waiting.message;
        self.bytes += message.body.len() as u64;
        self.memory += memory(message);
        let before = self.log.insert(message.pos, waiting);
        assert!(before.is_none(), "a position is one message's");
    }

    /// A device holds none of these messages any more. `held` says which of them it held and sees each
    /// before it may go.
    pub fn release(&mut self, (after, upto): (Pos, Pos), mut held: impl FnMut(&mut Waiting) -> bool) {
        let mut gone = Vec::new();
        for (pos, waiting) in self.log.range_mut(between(after, upto)) {
            if !held(waiting) {
                continue;
            }
            waiting.held = waiting.held.checked_sub(1).expect("who releases a message held it");
            if waiting.held == 0 {
                gone.push(*pos);
            }
        }
        for pos in gone {
            self.remove(pos);
        }
    }

    /// Takes a message out.
    ///
    /// # Panics
    /// When it is not there.
    pub fn remove(&mut self, pos: Pos) {
        let waiting = self.log.remove(&pos).expect("the message waits");
        self.bytes -= waiting.message.body.len() as u64;
        self.memory -= memory(&waiting.message);
    }

    /// The oldest messages, as many as must go until one of so many bytes has space.
    pub fn surplus(&self, bytes: u64, limits: &Limits, feature_level: u32) -> Vec<Pos> {
        let (most, most_bytes) = (limits.inbox_messages as usize, limits.inbox_bytes);
        let (mut count, mut left) = (self.len(), self.bytes);
        let mut dropped = Vec::new();
        if count < most && left + bytes <= most_bytes {
            return dropped;
        }
        let part = (limits.inbox_messages / DROPPED_PART) as usize;
        let part_bytes = if feature_level >= SHARES_LEVEL { most_bytes / u64::from(DROPPED_PART) } else { u64::MAX };
        for waiting in self.iter() {
            let enough = dropped.len() >= part || self.bytes - left >= part_bytes;
            if count < most && left + bytes <= most_bytes && enough {
                break;
            }
            count -= 1;
            left -= waiting.message.body.len() as u64;
            dropped.push(waiting.message.pos);
        }
        dropped
    }

    /// The oldest messages, those of one time, at most `most`.
    pub fn oldest(&self, most: usize) -> Vec<Pos> {
        let oldest_ms = self.oldest_ms();
        let old = self.iter().take_while(|waiting| waiting.message.stored_at_ms == oldest_ms);
        old.take(most).map(|waiting| waiting.message.pos).collect()
    }

    /// Lets bodies in memory go of which `locate` knows where they are stored.
    pub fn relocate(&mut self, locate: impl Fn(Pos) -> Option<Stored>) {
        for (pos, waiting) in &mut self.log {
            if let Some(stored) = locate(*pos) {
                assert!(stored.len as usize == waiting.message.body.len(), "a body never changes");
                self.memory -= memory(&waiting.message);
                Arc::make_mut(&mut waiting.message).body = Body::Stored(stored);
            }
        }
    }
}
