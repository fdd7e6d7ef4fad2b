//! What a session needs of the cluster; a seam for tests.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;

use cluster::id::{GroupId, MessageId, Pos, UserId};
use cluster::presence::{Presence, TooMany};
use cluster::session::{Delivery, Event, MembersPage, MembersRefusal, Request};

/// A session's grip on the cluster. Dropping it says that the connection was lost.
pub trait Link: Send + Sync + 'static {
    /// The next thing to know. Cancel-safe.
    fn next(&self) -> impl Future<Output = Event> + Send;

    /// Stores a message, or does something with a group; answered by one [`Event::Sent`] or
    /// [`Event::Done`] with this token, in order of the calls.
    fn ask(&self, token: u64, request: Request);

    /// The session's user is writing to this one.
    fn typing(&self, to: &UserId);

    /// The session's user has read a message of this sender.
    fn read_mark(&self, sender: &UserId, mid: MessageId);

    /// Tells the session who of these users is there, from now on.
    ///
    /// # Errors
    /// When it would watch more than `most`.
    fn watch(&self, users: BTreeSet<UserId>, most: usize) -> Result<(), TooMany>;

    /// Tells it of these no more.
    fn unwatch(&self, users: &BTreeSet<UserId>);

    /// Takes up to `most` of what is new of those watched.
    fn presences(&self, most: usize) -> Vec<Presence>;

    /// Tokens of the session's user that were issued before this time do not count, ms since the Unix
    /// epoch, as this node knows now.
    fn revoked_before(&self) -> Option<u64>;

    /// Lets the session go on where it was registered, also anew.
    fn confirm(&self);

    /// Whether the cluster has groups. Before that nothing may be asked of any.
    fn has_groups(&self) -> bool;

    /// Up to `count` members of a group behind `after`, as this node knows them now.
    ///
    /// # Errors
    /// When there is no such group, or the session's user is not in it.
    fn members(&self, group: &GroupId, after: Option<&UserId>, count: usize) -> Result<MembersPage, MembersRefusal>;

    /// The client has everything up to `upto`.
    fn ack(&self, upto: Pos);

    /// What waits after `after`: up to `max_count` items and about `max_bytes`, at least one if
    /// there is any; nothing while the session is not live.
    fn read(
        &self,
        after: Pos,
        max_count: usize,
        max_bytes: usize,
    ) -> impl Future<Output = io::Result<Vec<Delivery>>> + Send;

    /// Ends the session: `clean` when the client said goodbye.
    fn close(self, clean: bool);
}

impl Link for cluster::Session {
    fn next(&self) -> impl Future<Output = Event> + Send {
        cluster::Session::next(self)
    }

    fn ask(&self, token: u64, request: Request) {
        cluster::Session::ask(self, token, request);
    }

    fn typing(&self, to: &UserId) {
        cluster::Session::typing(self, to);
    }

    fn read_mark(&self, sender: &UserId, mid: MessageId) {
        cluster::Session::read_mark(self, sender, mid);
    }

    fn watch(&self, users: BTreeSet<UserId>, most: usize) -> Result<(), TooMany> {
        cluster::Session::watch(self, users, most)
    }

    fn unwatch(&self, users: &BTreeSet<UserId>) {
        cluster::Session::unwatch(self, users);
    }

    fn presences(&self, most: usize) -> Vec<Presence> {
        cluster::Session::presences(self, most)
    }

    fn revoked_before(&self) -> Option<u64> {
        cluster::Session::revoked_before(self)
    }

    fn confirm(&self) {
        cluster::Session::confirm(self);
    }

    fn has_groups(&self) -> bool {
        cluster::Session::has_groups(self)
    }

    fn members(&self, group: &GroupId, after: Option<&UserId>, count: usize) -> Result<MembersPage, MembersRefusal> {
        cluster::Session::members(self, group, after, count)
    }

    fn ack(&self, upto: Pos) {
        cluster::Session::ack(self, upto);
    }

    fn read(
        &self,
        after: Pos,
        max_count: usize,
        max_bytes: usize,
    ) -> impl Future<Output = io::Result<Vec<Delivery>>> + Send {
        cluster::Session::read(self, after, max_count, max_bytes)
    }

    fn close(self, clean: bool) {
        cluster::Session::close(self, clean);
    }
}
