//! Where a session's events wait for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::id::UserId;
use crate::presence::{Count, Presence};
use crate::session::Event;
use crate::sync::lock;

/// Beyond this many waiting events a session is not told of deliveries: they are a courtesy, and
/// all other events are bounded by its own sends in flight.
const MAX_EVENTS: usize = 1_024;

/// Beyond this many waiting events a session is told of nobody's typing or reading.
const MAX_SIGNALS: usize = 64;

/// Where a session's events wait for it. Wakes are coalesced.
#[derive(Default)]
pub struct Mailbox {
    events: Mutex<VecDeque<Event>>,
    inbox: AtomicBool,
    /// The latest of each user whom the session watches, until it is taken.
    presences: Mutex<BTreeMap<UserId, Count>>,
    presence: AtomicBool,
    notify: Notify,
}

impl Mailbox {
    /// Whether there was room for it.
    pub(super) fn push(&self, event: Event) -> bool {
        if event == Event::Inbox {
            self.inbox.store(true, Ordering::Release);
        } else {
            let mut events = lock(&self.events);
            let most = match event {
                Event::Signal { .. } => MAX_SIGNALS,
                Event::Delivered { .. } => MAX_EVENTS,
                _ => usize::MAX,
            };
            if events.len() >= most {
                return false;
            }
            events.push_back(event);
        }
        self.notify.notify_one();
        true
    }

    /// Tells how a user is seen now, in the place of what was told before and is not taken.
    pub(crate) fn see(&self, presence: Presence) {
        lock(&self.presences).insert(presence.user, presence.count);
        self.presence.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Forgets what was told of these users.
    pub(crate) fn unsee(&self, users: &BTreeSet<UserId>) {
        lock(&self.presences).retain(|user, _| !users.contains(user));
    }

    /// Takes up to `most` of what is to be told of users.
    pub(crate) fn take_presences(&self, most: usize) -> Vec<Presence> {
        let mut presences = lock(&self.presences);
        let taken = std::iter::from_fn(|| presences.pop_first()).take(most);
        taken.map(|(user, count)| Presence { user, count }).collect()
    }

    /// The next event. Cancel-safe.
    pub async fn next(&self) -> Event {
        loop {
            if let Some(event) = self.try_next() {
                return event;
            }
            self.notify.notified().await;
        }
    }

    fn try_next(&self) -> Option<Event> {
        let mut events = lock(&self.events);
        if let Some(event) = events.pop_front() {
            if events.is_empty() {
                *events = VecDeque::new();
            }
            return Some(event);
        }
        let inbox = self.inbox.swap(false, Ordering::AcqRel).then_some(Event::Inbox);
        inbox.or_else(|| self.presence.swap(false, Ordering::AcqRel).then_some(Event::Presence))
    }
}
