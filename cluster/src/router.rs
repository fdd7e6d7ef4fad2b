//! From what this replica has applied to the sessions of this node.
//!
//! Invariant: sessions learn of the replicated state only through [`Router::applied`], which sees
//! every entry once and in order, so no session can act on what is not committed.

mod awaited;
mod mailbox;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use self::awaited::{Awaited, Awaiting, Early};
pub use self::mailbox::Mailbox;
use crate::env::clock;
use crate::id::{DeviceId, MessageId, NodeId, UserId};
use crate::observer::{Audience, Delivery, Observer};
use crate::origin::{Events, Key, Origin};
use crate::presence::Desk;
use crate::raft::{ApplySink, LogId};
use crate::session::{Event, Outgoing, SessionSpec};
use crate::signal::Signal;
use crate::state::{Destination, Effect, FirstAck, GapReason, Outcome, SendRefusal};
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
    inner: Mutex<Inner>,
    /// Who of this node's sessions watches whom.
    pub(crate) desk: Desk,
    /// The origin may have something to propose.
    pub work: Notify,
    /// A batch or a `NodeUp` of this node was applied.
    pub settled: Notify,
    refused: Mutex<Option<(u64, u64)>>,
    boot_nonce: u64,
}

/// What the lock guards.
pub struct Inner {
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
            inner: Mutex::new(Inner {
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
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Begins a session.
    pub fn open(&self, spec: SessionSpec) -> (Key, Arc<Mailbox>) {
        let mailbox = Arc::new(Mailbox::default());
        let mut inner = self.lock();
        let key = inner.next_key;
        inner.next_key += 1;
        inner.by_user.entry(spec.user.clone()).or_default().push(key);
        inner.mailboxes.insert(key, (spec.clone(), mailbox.clone()));
        inner.origin.open(key, spec);
        drop(inner);
        self.work.notify_one();
        (key, mailbox)
    }

    /// Ends a session.
    pub fn close(&self, key: Key, clean: bool) {
        let mut inner = self.lock();
        inner.origin.close(key, clean);
        if let Some((spec, _)) = inner.mailboxes.remove(&key)
            && let Some(keys) = inner.by_user.get_mut(&spec.user)
        {
            keys.retain(|&other| other != key);
            if keys.is_empty() {
                inner.by_user.remove(&spec.user);
            }
        }
        drop(inner);
        self.desk.end(key);
        self.work.notify_one();
    }

    /// Sessions open on this node.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.lock().mailboxes.len()
    }

    /// Remembers when a message arrived.
    pub fn await_delivery(inner: &mut Inner, out: &Outgoing) {
        let group = match &out.to {
            Destination::User(_) => None,
            Destination::Group(group) => Some(group.clone()),
        };
        let (arrived, trace) = (out.arrived, out.trace.map(Box::new));
        inner.awaited.insert(out.mid, Awaiting::new(arrived, group, trace));
    }

    /// A recipient's node says that one of its devices has a message of ours.
    pub fn noticed(&self, notice: &Notice) {
        let mut inner = self.lock();
        if let Some(sent) = inner.awaited.tell(&notice.mid) {
            let Notice { mid, from, device, by, waited } = notice;
            let latency = sent.arrived.elapsed();
            if sent.is_settled() {
                self.measured(mid, by, &sent, latency, *waited);
            } else {
                inner.awaited.early(mid, Early { by: by.clone(), latency, waited: *waited });
            }
            inner.tell_sender((from, device), *mid, by, (!waited).then_some(latency), sent.trace);
        }
    }

    /// Tells a user's sessions on this node.
    pub fn signalled(&self, signal: &Signal) {
        let inner = self.lock();
        for key in inner.by_user.get(&signal.to).into_iter().flatten() {
            if let Some((spec, mailbox)) = inner.mailboxes.get(key)
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
        let mut inner = self.lock();
        let events = inner.origin.abandon();
        inner.dispatch(events);
    }

    fn apply(&self, inner: &mut Inner, author: NodeId, effect: Effect) {
        match effect {
            Effect::BatchApplied { node, generation, seq, outcomes } if node == self.node => {
                if inner.counting {
                    self.count(&mut inner.awaited, &outcomes);
                }
                let events = inner.origin.on_applied(generation, seq, &outcomes, clock::now());
                inner.dispatch(events);
                self.settled.notify_one();
            }
            Effect::BatchRefused { node, generation, seq, refusal } if node == self.node => {
                let events = inner.origin.on_refused(generation, seq, refusal);
                inner.dispatch(events);
                self.settled.notify_one();
            }
            Effect::Traced(traced) => traced.stored(clock::now()),
            Effect::Presence(users) => self.desk.changed(&users),
            Effect::Wake(user) => inner.wake(&user),
            Effect::Revoked { user, before_ms } => inner.revoked(&user, before_ms),
            Effect::WakeGroup(members) => members.keys().for_each(|member| inner.wake(member)),
            Effect::GroupLost { reason, lost } => {
                for (node, count) in lost {
                    if self.counts(inner, node.unwrap_or(author)) {
                        self.observer.failed(Audience::Group, reason_name(reason), count, None);
                    }
                }
            }
            Effect::Breaker { open } => {
                if inner.counting {
                    tracing::warn!(
                        open,
                        "the breaker was switched; while it is open, messages are stored and not delivered"
                    );
                }
                if !open {
                    inner.wake_all();
                }
            }
            Effect::Superseded { node, epoch } if node == self.node => {
                let events = inner.origin.on_superseded(epoch);
                inner.dispatch(events);
            }
            Effect::Ended { node, epoch } if node == self.node => {
                let events = inner.origin.on_ended(epoch);
                inner.dispatch(events);
            }
            Effect::Lapsed { user, lost, node } => {
                inner.wake(&user);
                if self.counts(inner, node.unwrap_or(author)) {
                    self.observer.failed(Audience::Direct, reason_name(GapReason::InboxLimit), lost, Some(&user));
                }
            }
            Effect::Acked { node, count, group, first, epoch } => {
                if self.counts(inner, node) {
                    self.observer.delivered(Audience::Direct, count);
                    self.observer.delivered(Audience::Group, group);
                }
                for ack in first {
                    self.first_ack(inner, &ack, epoch);
                }
            }
            Effect::Forgotten { why, node } if self.counts(inner, node.unwrap_or(author)) => {
                self.observer.forgotten(why);
            }
            Effect::Expired { user, count } if self.counts(inner, author) => {
                self.observer.failed(Audience::Direct, reason_name(GapReason::Expired), count, Some(&user));
            }
            Effect::NodeUp { node, generation, nonce } if node == self.node && nonce == self.boot_nonce => {
                inner.counting = true;
                let events = inner.origin.on_node_up(generation);
                inner.dispatch(events);
                self.settled.notify_one();
            }
            Effect::NodeDown { node, generation } if node == self.node => {
                let events = inner.origin.on_node_down(generation);
                inner.dispatch(events);
                self.settled.notify_one();
            }
            Effect::NodeRefused { node, boot, nonce, known } if node == self.node && nonce == self.boot_nonce => {
                *lock(&self.refused) = Some((boot, known));
                self.settled.notify_one();
            }
            _ => {}
        }
    }

    /// Whether what `node` counts is for this process to count. What concerns no session is counted
    /// by the leader that wrote the entry: every replica agrees on which that is, and on no other
    /// "leader" while one is elected.
    fn counts(&self, inner: &Inner, node: NodeId) -> bool {
        inner.counting && node == self.node
    }

    fn count(&self, awaited: &mut Awaited, outcomes: &[Outcome]) {
        let (mut duplicates, mut refused) = (0, 0);
        for outcome in outcomes {
            if let Outcome::Stored { mid, duplicate } = outcome
                && let Some((sent, Early { by, latency, waited })) = awaited.stored(mid, *duplicate)
            {
                self.measured(mid, &by, &sent, latency, waited);
            }
            match outcome {
                Outcome::Stored { duplicate: true, .. } | Outcome::SendRefused { duplicate: true, .. } => {
                    duplicates += 1
                }
                // A sender who is no member, or names no group, has made a mistake: nothing has failed.
                Outcome::SendRefused { refusal: SendRefusal::InboxFull, .. } => refused += 1,
                _ => {}
            }
        }
        if duplicates > 0 {
            self.observer.duplicate(duplicates);
        }
        if refused > 0 {
            self.observer.failed(Audience::Direct, "inbox_full", refused, None);
        }
    }

    fn first_ack(&self, inner: &mut Inner, ack: &FirstAck, epoch: crate::id::Epoch) {
        let message = &ack.message;
        let trace = message.trace.context().map(Box::new);
        let latency = match inner.awaited.settle(&message.mid) {
            Some(Awaiting { told: true, .. }) => return,
            Some(mut sent) => {
                // Ours would be known by now to be stored: this is the repeat of what another process stored.
                sent.measured |= !sent.stored;
                sent.trace.clone_from(&trace);
                let (latency, waited) = (sent.arrived.elapsed(), epoch >= message.pos);
                self.measured(&message.mid, &ack.by, &sent, latency, waited);
                (!waited).then_some(latency)
            }
            None => None,
        };
        let sender = (&message.from, &message.device);
        inner.tell_sender(sender, message.mid, &ack.by, latency, trace);
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

impl ApplySink for Router {
    fn applied(&self, at: &LogId, effects: Vec<Effect>) {
        let mut inner = self.lock();
        for effect in effects {
            self.apply(&mut inner, at.leader_id.node_id, effect);
        }
        drop(inner);
        self.work.notify_one();
    }

    fn checkpointed(&self, took: Duration) {
        self.observer.checkpoint(took);
    }

    fn installed(&self, _index: u64) {
        let mut inner = self.lock();
        let events = inner.origin.rejoin();
        inner.dispatch(events);
        drop(inner);
        self.desk.all_changed();
        self.settled.notify_one();
        self.work.notify_one();
    }
}

impl Inner {
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

/// The label of what was lost.
fn reason_name(reason: GapReason) -> &'static str {
    match reason {
        GapReason::InboxLimit => "inbox_limit",
        GapReason::Expired => "expired",
    }
}
