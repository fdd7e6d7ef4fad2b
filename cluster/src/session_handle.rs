//! A live session's grip on the cluster.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use crate::env::clock;
use crate::handle::Inner;
use crate::id::{GroupId, MessageId, NodeId, Pos, UserId};
use crate::origin::Key;
use crate::peer::Kind;
use crate::presence::{Presence, TooMany};
use crate::router::{Mailbox, Notice, Router};
use crate::session::{Delivery, Event, MembersPage, MembersRefusal, Outgoing, Request, SessionSpec};
use crate::signal::{News, Signal};
use crate::state::{Body, Destination, Item, Message, TRACES_LEVEL};
use crate::sync::lock;

/// A session on this node. Dropping it says that the connection was lost; [`Session::close`] that
/// the client left in good order.
pub struct Session {
    inner: Arc<Inner>,
    key: Key,
    spec: SessionSpec,
    mailbox: Arc<Mailbox>,
    /// Read but not acknowledged, for the news to their senders.
    unacked: Mutex<VecDeque<Arc<Message>>>,
    closed: bool,
    /// The epoch that this connection began with: what was stored since then did not wait for it,
    /// however often its node had to register it again.
    since: OnceLock<Pos>,
}

impl Session {
    pub(crate) fn new(inner: Arc<Inner>, key: Key, spec: SessionSpec, mailbox: Arc<Mailbox>) -> Self {
        Self { inner, key, spec, mailbox, unacked: Mutex::default(), closed: false, since: OnceLock::new() }
    }

    /// Who this is.
    #[must_use]
    pub fn spec(&self) -> &SessionSpec {
        &self.spec
    }

    /// The next thing to know. Cancel-safe.
    pub async fn next(&self) -> Event {
        self.mailbox.next().await
    }

    /// Stores a message, or does something with a group; answered by one [`Event::Sent`] or
    /// [`Event::Done`] with this token, in order of the calls. The caller keeps at most
    /// `limits.inflight` of them unanswered, and asks nothing of groups before there are any
    /// ([`Session::has_groups`]).
    pub fn ask(&self, token: u64, mut request: Request) {
        // While there are older nodes the log carries no traces: they end at the send.
        let traced = matches!(&request, Request::Send(Outgoing { trace: Some(_), .. }));
        let carried = traced && self.inner.state().feature_level() >= TRACES_LEVEL;
        let mut router = self.inner.router.lock();
        if let Request::Send(out) = &mut request {
            Router::await_delivery(&mut router, out);
            out.trace = out.trace.filter(|_| carried);
        }
        router.origin.ask(self.key, token, request);
        drop(router);
        self.inner.router.work.notify_one();
    }

    /// Tells a user's devices that this one's user types. Never stored; lost under load.
    pub fn typing(&self, to: &UserId) {
        self.inner.signal(&Signal { to: to.clone(), except: None, from: self.spec.user.clone(), news: News::Typing });
    }

    /// Tells all devices of a message's sender, and the other ones of this user, that it was read. Never
    /// stored; lost under load.
    pub fn read_mark(&self, sender: &UserId, mid: MessageId) {
        let (from, news) = (self.spec.user.clone(), News::Read(mid));
        if *sender != from {
            self.inner.signal(&Signal { to: sender.clone(), except: None, from: from.clone(), news });
        }
        self.inner.signal(&Signal { to: from.clone(), except: Some(self.spec.device.clone()), from, news });
    }

    /// Tells this session from now on who of these users is there, and how it is now; besides those whom
    /// it watches already.
    ///
    /// # Errors
    /// When it would watch more than `most`; then nothing has changed.
    pub fn watch(&self, users: BTreeSet<UserId>, most: usize) -> Result<(), TooMany> {
        self.inner.router.desk.watch(self.key, &self.mailbox, users, most)
    }

    /// Tells it of these users no more.
    pub fn unwatch(&self, users: &BTreeSet<UserId>) {
        self.inner.router.desk.unwatch(self.key, users);
    }

    /// Takes up to `most` of what is new of users whom it watches, after [`Event::Presence`].
    pub fn presences(&self, most: usize) -> Vec<Presence> {
        self.mailbox.take_presences(most)
    }

    /// Tokens of this session's user that were issued before this time do not count, as this replica knows,
    /// ms since the Unix epoch. What comes later is told by [`Event::Revoked`].
    #[must_use]
    pub fn revoked_before(&self) -> Option<u64> {
        self.inner.state().revoked_before(&self.spec.user)
    }

    /// Lets the session go on after an [`Event::Registered`] that was not the first: whoever holds it has looked whether
    /// it still may ([`Session::revoked_before`]). Before that nothing of it is proposed.
    pub fn confirm(&self) {
        self.inner.router.lock().origin.confirm(self.key);
        self.inner.router.work.notify_one();
    }

    /// Whether all nodes of the cluster know groups, and agree on their limits.
    #[must_use]
    pub fn has_groups(&self) -> bool {
        self.inner.state().has_groups()
    }

    /// Up to `count` members of a group in the order of their names, behind `after`, as this replica
    /// knows them now.
    ///
    /// # Errors
    /// When there is no such group, or this user is not in it.
    pub fn members(
        &self,
        group: &GroupId,
        after: Option<&UserId>,
        count: usize,
    ) -> Result<MembersPage, MembersRefusal> {
        let state = self.inner.state();
        let (members, more) = state.members(group, after, count).ok_or(MembersRefusal::Unknown)?;
        if !state.is_member(group, &self.spec.user) {
            return Err(MembersRefusal::NotMember);
        }
        Ok(MembersPage { members, more })
    }

    /// Everything read up to `upto` is the client's now.
    pub fn ack(&self, upto: Pos) {
        self.inner.router.lock().origin.ack(self.key, upto, clock::now());
        self.inner.router.work.notify_one();
        self.tell_senders(upto, self.since.get().copied().unwrap_or_default());
    }

    /// The news goes straight to the senders' nodes; where it is lost, the cursor move tells.
    fn tell_senders(&self, upto: Pos, since: Pos) {
        let mut notices: BTreeMap<NodeId, Vec<Notice>> = BTreeMap::new();
        let mut unacked = lock(&self.unacked);
        while let Some(message) = unacked.front().filter(|message| message.pos <= upto) {
            // Its sender's own devices have it: that is no delivery, but of a message to oneself.
            let own = message.from == self.spec.user && message.to != Destination::User(self.spec.user.clone());
            if own || !message.told.mark() {
                unacked.pop_front();
                continue;
            }
            notices.entry(message.origin).or_default().push(Notice {
                mid: message.mid,
                from: message.from.clone(),
                device: message.device.clone(),
                by: self.spec.user.clone(),
                waited: message.pos < since,
            });
            unacked.pop_front();
        }
        if unacked.is_empty() {
            *unacked = VecDeque::new();
        }
        drop(unacked);
        for (origin, notices) in notices {
            if origin == self.inner.me {
                notices.iter().for_each(|notice| self.inner.router.noticed(notice));
            } else if let Ok(body) = postcard::to_stdvec(&notices) {
                self.inner.peers.notify(origin, Kind::DELIVERED, body.into());
            }
        }
    }

    /// What waits for this device after `after` (start from [`Pos::ZERO`]): up to `max_count` items
    /// and about `max_bytes` of bodies, at least one if there is any; nothing while not live, nor while
    /// the breaker is open: when it is closed there is an [`Event::Inbox`].
    ///
    /// # Errors
    /// When a body cannot be read from this replica's checkpoint.
    pub async fn read(&self, after: Pos, max_count: usize, max_bytes: usize) -> io::Result<Vec<Delivery>> {
        let live = self.inner.router.lock().origin.live(self.key);
        let Some(epoch) = live else { return Ok(Vec::new()) };
        self.since.get_or_init(|| epoch);
        let items = {
            let state = self.inner.state();
            // The state may be ahead of what the router was told: it decides, under one lock, whether
            // this session still is the device's (G4).
            if state.session(epoch).is_none() {
                return Ok(Vec::new());
            }
            if state.breaker_open() {
                return Ok(Vec::new());
            }
            state.inbox(&self.spec.user, &self.spec.device, after, max_count, max_bytes)
        };
        let mut deliveries = Vec::with_capacity(items.len());
        for item in items {
            deliveries.push(match item {
                Item::Gap { seq, reason, lost } => Delivery::Gap { seq, reason, lost },
                Item::Message(message) => {
                    let body = match &message.body {
                        Body::Memory(bytes) => bytes.clone(),
                        Body::Stored(stored) => self.inner.bodies.read(*stored).await?,
                    };
                    Delivery::Message { message, body }
                }
            });
        }
        let mut unacked = lock(&self.unacked);
        for delivery in &deliveries {
            if let Delivery::Message { message, .. } = delivery {
                unacked.push_back(message.clone());
            }
        }
        Ok(deliveries)
    }

    /// Ends the session: `clean` when the client said goodbye.
    pub fn close(mut self, clean: bool) {
        self.closed = true;
        self.inner.router.close(self.key, clean);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.closed {
            self.inner.router.close(self.key, false);
        }
    }
}
