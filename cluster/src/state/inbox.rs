//! The messages that wait for a user, in log order.
//!
//! Invariant: a message leaves only at the front, so messages have consecutive ordinals, and
//! ordinals and positions grow together.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::message::{Body, Message, Stored};
use crate::id::Pos;

/// A waiting message.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub message: Arc<Message>,
    /// The message's position; here too, because searches shall not touch the messages.
    pub pos: Pos,
    /// Bytes of all bodies up to this one, counted from anywhere: only differences matter.
    end: u64,
    /// Some device of the user acknowledged it.
    pub acked: bool,
}

/// A user's messages.
#[derive(Debug, Clone, Default)]
pub(super) struct Inbox {
    slots: VecDeque<Slot>,
    /// Ordinal of the first waiting message.
    base: u64,
    /// As [`Slot::end`], of the message before the first.
    start: u64,
    /// Position of the last message that left.
    left: Pos,
    /// Position of the last message that came.
    last: Pos,
    /// Bytes of the bodies that are in memory.
    memory: u64,
}

/// Below this capacity an inbox never gives memory back.
const KEEP_SLOTS: usize = 32;

impl Inbox {
    /// An inbox whose messages before ordinal `base` have left, the last of them from `left`.
    pub fn starting(base: u64, left: Pos) -> Self {
        Self { base, left, last: left, ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Ordinal of the first waiting message, or of the next one to come.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Ordinal of the next message to come.
    pub fn next(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// Position of the last message that left, [`Pos::ZERO`] if none did.
    pub fn left(&self) -> Pos {
        self.left
    }

    /// Position of the last message that came, [`Pos::ZERO`] if none did.
    pub fn last(&self) -> Pos {
        self.last
    }

    /// Bytes of the waiting bodies.
    pub fn bytes(&self) -> u64 {
        self.bytes_from(self.base)
    }

    /// Bytes of the waiting bodies from this ordinal on.
    pub fn bytes_from(&self, ordinal: u64) -> u64 {
        let end = self.slots.back().map_or(self.start, |slot| slot.end);
        let index = self.index(ordinal);
        end - if index == 0 { self.start } else { self.slots[index - 1].end }
    }

    /// Bytes of the waiting bodies that are in memory on this replica.
    pub fn memory_bytes(&self) -> u64 {
        self.memory
    }

    fn index(&self, ordinal: u64) -> usize {
        assert!(self.base <= ordinal && ordinal <= self.next(), "the message has left, or is still to come");
        (ordinal - self.base) as usize
    }

    /// Ordinal of the first waiting message behind `pos`, or of the next one to come.
    pub fn ordinal_after(&self, pos: Pos) -> u64 {
        self.base + self.slots.partition_point(|slot| slot.pos <= pos) as u64
    }

    pub fn front(&self) -> Option<&Slot> {
        self.slots.front()
    }

    /// The waiting messages.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// The waiting messages from this ordinal on.
    pub fn from(&self, ordinal: u64) -> impl Iterator<Item = &Slot> {
        self.slots.range(self.index(ordinal)..)
    }

    /// The waiting messages of these ordinals.
    pub fn range_mut(&mut self, ordinals: Range<u64>) -> impl Iterator<Item = &mut Slot> {
        let range = self.index(ordinals.start)..self.index(ordinals.end);
        self.slots.range_mut(range)
    }

    pub fn push(&mut self, message: Arc<Message>, acked: bool) {
        assert!(message.pos > self.last, "the log only grows");
        let end = self.slots.back().map_or(self.start, |slot| slot.end) + message.body.len() as u64;
        self.last = message.pos;
        self.memory += memory(&message);
        self.slots.push_back(Slot { pos: message.pos, end, acked, message });
    }

    /// Lets all messages before this ordinal go.
    pub fn drop_before(&mut self, ordinal: u64) {
        for slot in self.slots.drain(..self.index(ordinal)) {
            self.memory -= memory(&slot.message);
            self.start = slot.end;
            self.left = slot.pos;
            self.base += 1;
        }
        let capacity = self.slots.capacity();
        if capacity > KEEP_SLOTS && self.slots.len() < capacity / 4 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
    }

    /// Lets bodies in memory go of which `locate` knows where they are stored.
    pub fn relocate(&mut self, locate: impl Fn(Pos) -> Option<Stored>) {
        for slot in &mut self.slots {
            if let Some(stored) = locate(slot.pos) {
                assert!(stored.len as usize == slot.message.body.len(), "a body never changes");
                self.memory -= memory(&slot.message);
                Arc::make_mut(&mut slot.message).body = Body::Stored(stored);
            }
        }
    }
}

pub(super) fn memory(message: &Message) -> u64 {
    match &message.body {
        Body::Memory(bytes) => bytes.len() as u64,
        Body::Stored(_) => 0,
    }
}
