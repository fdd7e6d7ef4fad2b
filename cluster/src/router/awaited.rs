//! Messages sent from this node that no device was heard to have yet.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use crate::env::clock::Instant;
use crate::id::{GroupId, MessageId};
use crate::trace::TraceContext;

/// Sent messages whose delivery is awaited for the latency and the `delivered` frame, at most:
/// beyond it the oldest are measured no more, and told by the cursor move alone.
const AWAITED: usize = 65_536;

/// A message that was sent from here.
#[derive(Debug, Clone)]
pub struct Awaiting {
    pub arrived: Instant,
    /// The group that it was written to, if it was one.
    pub group: Option<GroupId>,
    /// The sender was told, since it sent it last.
    pub told: bool,
    /// Its delivery was measured.
    pub measured: bool,
    /// Boxed, because few are traced and many are awaited.
    pub trace: Option<Box<TraceContext>>,
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
                known.measured |= known.told;
                known.told = false;
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

    #[test]
    fn a_repeat_is_told_again_and_measured_once_from_the_first() {
        let mid = MessageId([1; 16]);
        let awaiting =
            |ms| Awaiting { arrived: Instant::from_nanos(ms), group: None, told: false, measured: false, trace: None };
        let mut awaited = Awaited::default();
        awaited.insert(mid, awaiting(1));
        assert!(awaited.tell(&mid).is_some_and(|sent| !sent.measured));
        assert!(awaited.tell(&mid).is_none());
        awaited.insert(mid, awaiting(2));
        let again = awaited.tell(&mid).expect("the sender is told again");
        assert!(again.measured && again.arrived == Instant::from_nanos(1));
        assert!(awaited.settle(&mid).is_some_and(|sent| sent.told));
    }
}
