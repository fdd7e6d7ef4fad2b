//! From what this replica has applied to the sessions of this node.
//!
//! Invariant: sessions learn of the replicated state only through [`applied`], which sees every entry
//! once and in order, so no session can act on what is not committed.

mod applied;
mod awaited;
mod mailbox;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use self::awaited::{Awaited, Awaiting, Early};
pub use self::mailbox::Mailbox;
use crate::id::{DeviceId, MessageId, NodeId, UserId};
use crate::observer::{Delivery, Observer};
use crate::origin::{Events, Key, Origin};
use crate::presence::Desk;
use crate::session::{Event, Outgoing, SessionSpec};
use crate::signal::Signal;
use crate::state::Destination;
use crate::sync::lock;
use crate::trace::TraceContext;

/// News that a recipient's device has a message, as it travels straight to the sender's node.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Notice {
    /// The message.
    pub mid: MessageId,
    /// The sender.
    pub from: UserId,
    /// The sender's device.
    pub device: DeviceId,
    /// The recipient.
    pub by: UserId,
    /// The recipient's device was absent when the message was stored: no measure of our speed.
    pub waited: bool,
}

/// The sessions of this node, and what they wait for.
pub struct Router {
    node: NodeId,
    observer: Arc<dyn Observer>,
    tables: Mutex<Tables>,
    /// Who of this node's sessions watches whom.
    pub(crate) desk: Desk,
    /// The origin may have something to propose.
    pub work: Notify,
    /// A batch or a `NodeUp` of this node was applied.
    pub settled: Notify,
    refused: Mutex<Option<(u64, u64)>>,
    boot_nonce: u64,
}

/// What the router's lock guards.
pub struct Tables {
    /// The send queue.
    pub origin: Origin,
    mailboxes: BTreeMap<Key, (SessionSpec, Arc<Mailbox>)>,
    by_user: HashMap<UserId, Vec<Key>>,
    awaited: Awaited,
    next_key: Key,
    /// This process has had a generation. What its node did before is another process's, which
    /// counted it: a restarted node applies the end of its log again.
    counting: bool,
}

impl Router {
    /// A router without sessions.
    #[must_use]
    pub fn new(node: NodeId, boot_nonce: u64, observer: Arc<dyn Observer>) -> Self {
        Self {
            node,
            observer,
            boot_nonce,
            tables: Mutex::new(Tables {
                origin: Origin::new(node),
                mailboxes: BTreeMap::new(),
                by_user: HashMap::new(),
                awaited: Awaited::default(),
                next_key: 1,
                counting: false,
            }),
            desk: Desk::default(),
            work: Notify::new(),
            settled: Notify::new(),
            refused: Mutex::new(None),
        }
    }

    /// The send queue and the tables, locked. Never held across an await.
    pub fn lock(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }

    /// Begins a session.
    pub fn open(&self, spec: SessionSpec) -> (Key, Arc<Mailbox>) {
        let mailbox = Arc::new(Mailbox::default());
        let mut tables = self.lock();
        let key = tables.next_key;
        tables.next_key += 1;
        tables.by_user.entry(spec.user.clone()).or_default().push(key);
        tables.mailboxes.insert(key, (spec.clone(), mailbox.clone()));
        tables.origin.open(key, spec);
        drop(tables);
        self.work.notify_one();
        (key, mailbox)
    }

    /// Ends a session.
    pub fn close(&self, key: Key, clean: bool) {
        let mut tables = self.lock();
        tables.origin.close(key, clean);
        if let Some((spec, _)) = tables.mailboxes.remove(&key)
            && let Some(keys) = tables.by_user.get_mut(&spec.user)
        {
            keys.retain(|&other| other != key);
            if keys.is_empty() {
                tables.by_user.remove(&spec.user);
            }
        }
        drop(tables);
        self.desk.end(key);
        self.work.notify_one();
    }

    /// Sessions open on this node.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.lock().mailboxes.len()
    }

    /// Remembers when a message arrived.
    pub fn await_delivery(tables: &mut Tables, out: &Outgoing) {
        let group = match &out.to {
            Destination::User(_) => None,
            Destination::Group(group) => Some(group.clone()),
        };
        let (arrived, trace) = (out.arrived, out.trace.map(Box::new));
        tables.awaited.insert(out.mid, Awaiting::new(arrived, group, trace));
    }

    /// A recipient's node says that one of its devices has a message of ours.
    pub fn noticed(&self, notice: &Notice) {
        let mut tables = self.lock();
        if let Some(sent) = tables.awaited.tell(&notice.mid) {
            let Notice { mid, from, device, by, waited } = notice;
            let latency = sent.arrived.elapsed();
            if sent.is_settled() {
                self.measured(mid, by, &sent, latency, *waited);
            } else {
                tables.awaited.early(mid, Early { by: by.clone(), latency, waited: *waited });
            }
            tables.tell_sender((from, device), *mid, by, (!waited).then_some(latency), sent.trace);
        }
    }

    /// Tells a user's sessions on this node.
    pub fn signalled(&self, signal: &Signal) {
        let tables = self.lock();
        for key in tables.by_user.get(&signal.to).into_iter().flatten() {
            if let Some((spec, mailbox)) = tables.mailboxes.get(key)
                && signal.except.as_ref() != Some(&spec.device)
                && !mailbox.push(Event::Signal { from: signal.from.clone(), news: signal.news })
            {
                self.observer.signal_dropped(signal.news);
            }
        }
    }

    /// The boot count that the cluster knows of this node, if it refused ours as an old copy.
    pub fn refused(&self) -> Option<(u64, u64)> {
        *lock(&self.refused)
    }

    /// Sends every session away: the quorum is out of reach.
    pub fn abandon(&self) {
        let mut tables = self.lock();
        let events = tables.origin.abandon();
        tables.dispatch(events);
    }

    /// Counts a delivery, and how long it took, unless the message `waited` for an absent device.
    fn measured(&self, mid: &MessageId, by: &UserId, sent: &Awaiting, latency: Duration, waited: bool) {
        let delivery = Delivery { mid, by, group: sent.group.as_ref(), trace: sent.trace.as_deref() };
        match (sent.measured, waited) {
            (true, _) => {}
            (false, true) => self.observer.delivered_late(1),
            (false, false) => self.observer.delivery_latency(&delivery, latency),
        }
    }
}

impl Tables {
    fn dispatch(&self, events: Events) {
        for (key, event) in events {
            if let Some((_, mailbox)) = self.mailboxes.get(&key) {
                mailbox.push(event);
            }
        }
    }

    fn wake(&self, user: &UserId) {
        for key in self.by_user.get(user).into_iter().flatten() {
            if let Some((_, mailbox)) = self.mailboxes.get(key) {
                mailbox.push(Event::Inbox);
            }
        }
    }

    fn wake_all(&self) {
        for (_, mailbox) in self.mailboxes.values() {
            mailbox.push(Event::Inbox);
        }
    }

    fn revoked(&self, user: &UserId, before_ms: u64) {
        for key in self.by_user.get(user).into_iter().flatten() {
            if let Some((_, mailbox)) = self.mailboxes.get(key) {
                mailbox.push(Event::Revoked { before_ms });
            }
        }
    }

    fn tell_sender(
        &self,
        (from, device): (&UserId, &DeviceId),
        mid: MessageId,
        by: &UserId,
        latency: Option<Duration>,
        trace: Option<Box<TraceContext>>,
    ) {
        for key in self.by_user.get(from).into_iter().flatten() {
            if let Some((spec, mailbox)) = self.mailboxes.get(key)
                && spec.device == *device
            {
                mailbox.push(Event::Delivered { mid, by: by.clone(), latency, trace: trace.clone() });
            }
        }
    }
}
