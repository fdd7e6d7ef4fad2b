//! What happened lately to each message on this node, for whoever asks after one.
//!
//! Invariant: at most [`STEPS`] steps are kept, the oldest leaving first, and no body among them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

use cluster::id::{DeviceId, GroupId, MessageId, Pos, UserId};
use cluster::sync::lock;
use serde::Serialize;

use crate::protocol::{ErrorCode, GapReason};

/// Steps that are kept: about 6 MB; a message makes four or more.
const STEPS: usize = 65_536;

/// The steps of recent messages.
#[derive(Debug, Default)]
pub struct Trail {
    steps: Mutex<VecDeque<Step>>,
}

/// Something that happened between this node and a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When, by this node's clock, in ms since the Unix epoch.
    pub ts_ms: u64,
    /// The device's user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum What {
    /// The device sent a message.
    Received {
        /// The message.
        #[serde(skip)]
        mid: MessageId,
        /// To this user …
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<UserId>,
        /// … or this group.
        #[serde(skip_serializing_if = "Option::is_none")]
        group: Option<GroupId>,
        /// Of its body.
        bytes: usize,
    },
    /// The device was told that its message is stored.
    Stored {
        /// The message.
        #[serde(skip)]
        mid: MessageId,
    },
    /// The device was told that its message is refused.
    Refused {
        /// The message.
        #[serde(skip)]
        mid: MessageId,
        /// Why.
        code: ErrorCode,
    },
    /// A message was written to the device.
    Sent {
        /// The message.
        #[serde(skip)]
        mid: MessageId,
        /// Its place.
        seq: Pos,
    },
    /// The device was told that it missed messages.
    Gap {
        /// The place of the last one.
        seq: Pos,
        /// Why.
        reason: GapReason,
        /// How many.
        lost: u64,
    },
    /// The device has everything up to this place.
    Acked {
        /// The place.
        seq: Pos,
    },
}

impl What {
    fn mid(&self) -> Option<MessageId> {
        match self {
            Self::Received { mid, .. } | Self::Stored { mid } | Self::Refused { mid, .. } | Self::Sent { mid, .. } => {
                Some(*mid)
            }
            Self::Gap { .. } | Self::Acked { .. } => None,
        }
    }
}

impl Trail {
    fn steps(&self) -> MutexGuard<'_, VecDeque<Step>> {
        lock(&self.steps)
    }

    /// Notes a step.
    pub fn note(&self, ts_ms: u64, user: &UserId, device: &DeviceId, what: What) {
        let mut steps = self.steps();
        if steps.len() == STEPS {
            steps.pop_front();
        }
        steps.push_back(Step { ts_ms, user: user.clone(), device: device.clone(), what });
    }

    /// The steps of a message that are still known, in their order: also each device's first
    /// acknowledgement of it, and gaps told to devices that may count it, if its `place` is known, here or by the
    /// caller.
    #[must_use]
    pub fn of(&self, mid: MessageId, place: Option<Pos>) -> Vec<Step> {
        let steps = self.steps();
        // A message has one place, whatever the device.
        let place = place.or_else(|| {
            steps.iter().find_map(|step| match step.what {
                What::Sent { mid: sent, seq } if sent == mid => Some(seq),
                _ => None,
            })
        });
        // Who has it under way to them, and who was sent it at all: what they are told to have missed is something else.
        let (mut waiting, mut sent_to) = (BTreeSet::new(), BTreeSet::new());
        let mut told = Vec::new();
        for step in steps.iter() {
            let device = (&step.user, &step.device);
            let concerns = match (&step.what, place) {
                (What::Sent { mid: sent, .. }, _) if *sent == mid => {
                    sent_to.insert(device);
                    waiting.insert(device);
                    true
                }
                (What::Acked { seq }, Some(place)) if *seq >= place => waiting.remove(&device),
                (What::Gap { seq, .. }, Some(place)) => *seq >= place && !sent_to.contains(&device),
                (what, _) => what.mid() == Some(mid),
            };
            if concerns {
                told.push(step.clone());
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene(Trail, u64);

    impl Scene {
        fn note(&mut self, user: &str, what: What) {
            self.1 += 1;
            let user = UserId::new(user).expect("a name");
            self.0.note(self.1, &user, &DeviceId::new("d").expect("a name"), what);
        }

        fn times(&self, mid: u8) -> Vec<u64> {
            self.0.of(MessageId([mid; 16]), None).iter().map(|step| step.ts_ms).collect()
        }
    }

    fn mid(n: u8) -> MessageId {
        MessageId([n; 16])
    }

    #[test]
    fn a_message_is_followed_from_its_sender_to_each_device() {
        let mut scene = Scene(Trail::default(), 0);
        scene.note("alice", What::Received { mid: mid(1), to: None, group: None, bytes: 5 });
        scene.note("alice", What::Received { mid: mid(2), to: None, group: None, bytes: 5 });
        scene.note("alice", What::Stored { mid: mid(1) });
        scene.note("alice", What::Refused { mid: mid(2), code: ErrorCode::InboxFull });
        scene.note("bob", What::Sent { mid: mid(1), seq: Pos(10) });
        scene.note("bob", What::Acked { seq: Pos(9) });
        scene.note("carol", What::Acked { seq: Pos(12) });
        scene.note("bob", What::Acked { seq: Pos(11) });
        scene.note("bob", What::Acked { seq: Pos(12) });
        assert_eq!(scene.times(1), [1, 3, 5, 8], "the first ack that covers it, by who was sent it");
        assert_eq!(scene.times(2), [2, 4]);
        assert_eq!(scene.times(3), [0; 0]);
    }

    #[test]
    fn a_gap_may_count_it_for_who_was_not_sent_it() {
        let mut scene = Scene(Trail::default(), 0);
        scene.note("bob", What::Sent { mid: mid(1), seq: Pos(10) });
        scene.note("bob", What::Gap { seq: Pos(20), reason: GapReason::InboxLimit, lost: 3 });
        scene.note("carol", What::Gap { seq: Pos(9), reason: GapReason::InboxLimit, lost: 1 });
        scene.note("carol", What::Gap { seq: Pos(20), reason: GapReason::InboxLimit, lost: 3 });
        assert_eq!(scene.times(1), [1, 4]);
        scene.note("bob", What::Acked { seq: Pos(10) });
        scene.note("bob", What::Gap { seq: Pos(30), reason: GapReason::InboxLimit, lost: 4 });
        assert_eq!(scene.times(1), [1, 4, 5]);
    }

    #[test]
    fn the_oldest_steps_leave() {
        let mut scene = Scene(Trail::default(), 0);
        scene.note("bob", What::Stored { mid: mid(1) });
        for _ in 0..STEPS - 1 {
            scene.note("bob", What::Acked { seq: Pos(1) });
        }
        assert_eq!(scene.times(1), [1]);
        scene.note("bob", What::Acked { seq: Pos(1) });
        assert_eq!(scene.times(1), [0; 0]);
    }
}
