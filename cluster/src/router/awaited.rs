//! Messages sent from this node that no device was heard to have yet.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::env::clock::Instant;
use crate::id::{GroupId, MessageId, UserId};
use crate::trace::TraceContext;

/// Sent messages whose delivery is awaited for the latency and the `delivered` frame, at most:
/// beyond it the oldest are measured no more, and told by the cursor move alone.
const AWAITED: usize = 65_536;

/// A message that was sent from here.
#[derive(Debug, Clone)]
pub struct Awaiting {
    pub arrived: Instant,
    /// When it was repeated last.
    repeated: Option<Instant>,
    /// The group that it was written to, if it was one.
    pub group: Option<GroupId>,
    /// The sender was told, since it sent it last.
    pub told: bool,
    /// It was stored when it was first sent from here.
    pub stored: bool,
    /// Its delivery was measured, or is for another process to measure, from which it was stored.
    pub measured: bool,
    /// Boxed, because few are traced and many are awaited.
    pub trace: Option<Box<TraceContext>>,
    /// It was delivered before it was known here to be stored.
    pub early: Option<Box<Early>>,
}

/// A delivery that is to be measured if it turns out to be ours.
#[derive(Debug, Clone)]
pub struct Early {
    pub by: UserId,
    pub latency: Duration,
    /// See [`Notice::waited`](super::Notice::waited).
    pub waited: bool,
}

impl Awaiting {
    pub fn new(arrived: Instant, group: Option<GroupId>, trace: Option<Box<TraceContext>>) -> Self {
        Self { arrived, repeated: None, group, told: false, stored: false, measured: false, trace, early: None }
    }

    /// Whether it is known by which process it was stored.
    pub fn is_settled(&self) -> bool {
        self.stored || self.measured
    }
}

/// Messages sent from here whose delivery is awaited, the oldest forgotten first.
#[derive(Default)]
pub struct Awaited {
    by_mid: HashMap<MessageId, Awaiting>,
    order: VecDeque<MessageId>,
}

impl Awaited {
    /// Awaits a message, or a repeat of it: then whoever sent it may not have heard what was told, and it has arrived
    /// when it did first.
    pub fn insert(&mut self, mid: MessageId, awaiting: Awaiting) {
        match self.by_mid.entry(mid) {
            Entry::Occupied(known) => {
                let known = known.into_mut();
                known.measured |= known.told && known.early.is_none();
                known.told = false;
                known.repeated = Some(awaiting.arrived);
            }
            Entry::Vacant(new) => {
                new.insert(awaiting);
                self.order.push_back(mid);
            }
        }
        while self.order.len() > AWAITED {
            if let Some(oldest) = self.order.pop_front() {
                self.by_mid.remove(&oldest);
            }
        }
    }

    /// It is stored, now or (`duplicate`) before: then from here, or what is sent from here is the repeat of what
    /// another process stored. Returns what is to be measured now.
    pub fn stored(&mut self, mid: &MessageId, duplicate: bool) -> Option<(Awaiting, Early)> {
        let awaiting = self.by_mid.get_mut(mid)?;
        if !duplicate && awaiting.is_settled() {
            // Its device was forgotten meanwhile, and with it that this was stored before: it is a new message.
            awaiting.arrived = awaiting.repeated.unwrap_or(awaiting.arrived);
            awaiting.measured = false;
        }
        awaiting.stored |= !duplicate;
        awaiting.measured |= !awaiting.stored;
        let early = awaiting.early.take().filter(|_| awaiting.stored)?;
        Some((awaiting.clone(), *early))
    }

    /// It was delivered, and it is not known yet by which process it was stored.
    pub fn early(&mut self, mid: &MessageId, early: Early) {
        if let Some(awaiting) = self.by_mid.get_mut(mid) {
            awaiting.early.get_or_insert_with(|| Box::new(early));
        }
    }

    /// What is known of it, if the sender was not told yet.
    pub fn tell(&mut self, mid: &MessageId) -> Option<Awaiting> {
        let awaiting = self.by_mid.get_mut(mid).filter(|awaiting| !awaiting.told)?;
        awaiting.told = true;
        Some(awaiting.clone())
    }

    /// Awaits it no more; what was known of it.
    pub fn settle(&mut self, mid: &MessageId) -> Option<Awaiting> {
        self.by_mid.remove(mid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awaiting(ns: u64) -> Awaiting {
        Awaiting::new(Instant::from_nanos(ns), None, None)
    }

    #[test]
    fn a_repeat_is_told_again_and_measured_once_from_the_first() {
        let mid = MessageId([1; 16]);
        let mut awaited = Awaited::default();
        awaited.insert(mid, awaiting(1));
        assert!(awaited.tell(&mid).is_some_and(|sent| !sent.measured));
        assert!(awaited.tell(&mid).is_none());
        awaited.insert(mid, awaiting(2));
        let again = awaited.tell(&mid).expect("the sender is told again");
        assert!(again.measured && again.arrived == Instant::from_nanos(1));
        assert!(awaited.settle(&mid).is_some_and(|sent| sent.told));
    }

    #[test]
    fn what_a_forgotten_device_repeats_is_measured_anew() {
        let [ours, theirs] = [1, 2].map(|n| MessageId([n; 16]));
        let mut awaited = Awaited::default();
        for mid in [ours, theirs] {
            awaited.insert(mid, awaiting(1));
            assert!(awaited.stored(&mid, mid == theirs).is_none());
            assert!(awaited.tell(&mid).is_some_and(|sent| sent.measured == (mid == theirs)));
            awaited.insert(mid, awaiting(7));
            assert!(awaited.stored(&mid, false).is_none());
            let again = awaited.tell(&mid).expect("the sender is told");
            assert!(!again.measured && again.arrived == Instant::from_nanos(7));
        }
    }

    #[test]
    fn what_another_process_stored_is_that_ones_to_measure() {
        let [ours, theirs, early, late] = [1, 2, 3, 4].map(|n| MessageId([n; 16]));
        let mut awaited = Awaited::default();
        for mid in [ours, theirs, early, late] {
            awaited.insert(mid, awaiting(1));
        }
        assert!(awaited.stored(&ours, false).is_none());
        // And repeated from here.
        assert!(awaited.stored(&ours, true).is_none());
        assert!(awaited.stored(&theirs, true).is_none());
        assert!(awaited.tell(&ours).is_some_and(|sent| sent.is_settled() && !sent.measured));
        assert!(awaited.tell(&theirs).is_some_and(|sent| sent.measured));
        // Delivered before this node knows that it is stored.
        for mid in [early, late] {
            assert!(awaited.tell(&mid).is_some_and(|sent| !sent.is_settled()));
            let by = UserId::new("bob").unwrap();
            awaited.early(&mid, Early { by, latency: Duration::from_millis(3), waited: false });
            awaited.insert(mid, awaiting(2));
        }
        assert!(awaited.stored(&early, false).is_some_and(|(_, early)| early.latency == Duration::from_millis(3)));
        assert!(awaited.stored(&early, true).is_none(), "once");
        assert!(awaited.stored(&late, true).is_none(), "it is another process's");
    }
}
