//! What a session needs of the cluster; a seam for tests.

use std::future::Future;
use std::io;

use cluster::id::Pos;
use cluster::session::{Delivery, Event, Outgoing};

/// A session's grip on the cluster. Dropping it says that the connection was lost.
pub trait Link: Send + Sync + 'static {
    /// The next thing to know. Cancel-safe.
    fn next(&self) -> impl Future<Output = Event> + Send;

    /// Stores a message; answered by one [`Event::Sent`] with this token, in order of the calls.
    fn send(&self, token: u64, out: Outgoing);

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

    fn send(&self, token: u64, out: Outgoing) {
        cluster::Session::send(self, token, out);
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
