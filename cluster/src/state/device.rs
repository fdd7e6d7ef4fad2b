//! A device of a user, and what stays of it after it was forgotten.
//!
//! Invariant: a device with a live session never is lapsed: what it lost is told to it by a gap.

use serde::{Deserialize, Serialize};

use super::ring::Ring;
use crate::id::{DeviceId, Epoch, NodeId, Pos};

/// A deadline that is not set.
pub(super) const NEVER: u64 = u64::MAX;

/// `ttl_ms` from now on; never is never, however long that is.
pub(super) fn deadline(now_ms: u64, ttl_ms: u64) -> u64 {
    now_ms.saturating_add(ttl_ms).min(NEVER - 1)
}

/// Why a device missed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GapReason {
    /// The inbox was at its limit, and another device was further on.
    InboxLimit,
    /// The messages were too old.
    Expired,
}

/// Messages that a device missed and has not yet acknowledged as missed: all from its cursor on up to `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gap {
    /// Position of the last message missed.
    pub seq: Pos,
    /// Ordinal of the message after it.
    pub upto: u64,
    pub reason: GapReason,
}

/// How far a device (or the user's heir) is in the user's inbox.
///
/// Ordinals count the user's messages from 0; they outlive the messages, so losses can be counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// All messages up to here are passed.
    pub pos: Pos,
    /// Ordinal of the first message not passed.
    pub passed: u64,
    /// What was lost from here on.
    pub gap: Option<Gap>,
    /// What was lost of groups and copies from here on. Written with the user's memberships.
    #[serde(skip)]
    pub scattered: Option<ScatteredGap>,
}

/// Messages of groups, and copies of the user's own, that a device missed and has not yet acknowledged as
/// missed. Unlike those of the user's inbox, not all from the cursor on up to `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ScatteredGap {
    /// Position of the last message missed.
    pub seq: Pos,
    /// How many.
    pub lost: u64,
    pub reason: GapReason,
}

impl Cursor {
    /// Ordinal of the first message that is still to come here; this one and later ones are held.
    pub fn front(&self) -> u64 {
        self.gap.map_or(self.passed, |gap| gap.upto)
    }

    /// Whether the device has yet to be told of a loss.
    pub fn has_gap(&self) -> bool {
        self.gap.is_some() || self.scattered.is_some()
    }

    /// Messages in the pending gap.
    pub fn lost(&self) -> u64 {
        self.front() - self.passed
    }

    /// Loses all messages before ordinal `upto`, the last of them at `seq`. A pending gap grows; it
    /// says "inbox limit" as soon as that cost any message.
    pub fn lose(&mut self, seq: Pos, upto: u64, reason: GapReason) {
        assert!(upto >= self.front(), "a gap never shrinks");
        if upto > self.front() {
            let reason = match self.gap {
                Some(Gap { reason: GapReason::InboxLimit, .. }) => GapReason::InboxLimit,
                _ => reason,
            };
            self.gap = Some(Gap { seq, upto, reason });
        }
    }

    /// Loses `lost` messages that are not all from here on, the last of them at `seq`. As [`Cursor::lose`]
    /// otherwise.
    pub fn lose_scattered(&mut self, seq: Pos, lost: u64, reason: GapReason) {
        assert!(seq > self.pos, "what was passed is not lost");
        self.scattered = Some(match self.scattered {
            None => ScatteredGap { seq, lost, reason },
            Some(gap) => ScatteredGap {
                seq: gap.seq.max(seq),
                lost: gap.lost + lost,
                reason: if gap.reason == GapReason::InboxLimit { gap.reason } else { reason },
            },
        });
    }
}

/// The last registration of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub instance: u64,
    pub attempt: u64,
    pub epoch: Epoch,
    /// Client instances that others took the device over from, the latest first; 0 where there was
    /// none. One that comes back is told that it was replaced, as it would have been had it been
    /// there: the ring, by which a repeat of its sends is seen as one, may be full of the others'.
    pub replaced: [u64; REPLACED],
}

/// How many replaced instances of a device are remembered.
const REPLACED: usize = 4;

impl Registration {
    /// The one that follows `last`.
    pub(super) fn after(last: Option<Self>, instance: u64, attempt: u64, epoch: Epoch) -> Self {
        let mut replaced = last.map_or([0; REPLACED], |last| last.replaced);
        if let Some(last) = last.filter(|last| last.instance != instance) {
            replaced.rotate_right(1);
            replaced[0] = last.instance;
        }
        Self { instance, attempt, epoch, replaced }
    }

    /// Whether another instance took the device over from this one.
    pub(super) fn has_replaced(&self, instance: u64) -> bool {
        instance != 0 && self.instance != instance && self.replaced.contains(&instance)
    }
}

/// A known device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Device {
    pub id: DeviceId,
    pub last: Registration,
    pub ephemeral: bool,
    /// The node of the live session, whose epoch is that of the last registration.
    pub session: Option<NodeId>,
    pub cursor: Cursor,
    /// Set while the device holds no message: it was away when the inbox was full. The ordinal up
    /// to which its losses have been counted.
    pub lapsed: Option<u64>,
    /// When it is forgotten, on replicated time; [`NEVER`] while a session lives.
    pub forget_ms: u64,
    /// When its ring is dropped; [`NEVER`] while a session lives, and afterwards.
    pub ring_ms: u64,
    pub ring: Ring,
}

impl Device {
    /// The ordinal from which on it holds messages, `None` when lapsed.
    pub fn holds(&self) -> Option<u64> {
        match self.lapsed {
            None => Some(self.cursor.front()),
            Some(_) => None,
        }
    }

    /// The next deadline, [`NEVER`] if there is none.
    pub fn due_ms(&self) -> u64 {
        self.forget_ms.min(self.ring_ms)
    }
}

/// What is kept of a forgotten device for a while: a retry of its sends is still seen as one (G2),
/// and a late registration of an older attempt is still refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Retired {
    pub id: DeviceId,
    pub last: Registration,
    pub ring: Ring,
    /// When this is dropped, on replicated time.
    pub drop_ms: u64,
}

/// Holds the inbox of a user without devices, for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Heir {
    pub cursor: Cursor,
    /// When a pending gap is given up, on replicated time, if no messages wait then.
    pub forget_ms: u64,
}

impl Default for Heir {
    fn default() -> Self {
        Self { cursor: Cursor::default(), forget_ms: NEVER }
    }
}
