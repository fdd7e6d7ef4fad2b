//! Messages sent from this node that no device was heard to have yet.

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
    /// The sender was told.
    pub told: bool,
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
    pub fn insert(&mut self, mid: MessageId, awaiting: Awaiting) {
        if self.by_mid.insert(mid, awaiting).is_none() {
            self.order.push_back(mid);
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
