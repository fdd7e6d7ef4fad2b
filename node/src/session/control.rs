//! How the node reaches its open connections: to count them, and to send them away.
//!
//! Invariant: strangers, who have not shown a token that counts, take at most about half of the places that sessions
//! leave. When there are more, the one who came first gives way to whoever comes, so that no crowd of them keeps
//! others out for as long as a `hello` may take; the others are served as ever, a crowd of honest clients among them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Context;
use std::time::Duration;

use cluster::env::clock::{self, Instant};
use cluster::sync::lock;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

/// A stranger's time to say hello, whoever waits: honest clients need less, also in a crowd of their like.
const GRACE: Duration = Duration::from_secs(1);

/// What the node wants of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Its client should go elsewhere, and has time for that.
    Leave {
        /// Within so many milliseconds.
        after_ms: u64,
        /// Where to.
        url: Arc<str>,
    },
    /// It is to end now, because the node does.
    End {
        /// The client should be back within so many milliseconds.
        after_ms: u64,
    },
    /// It is to end for others if its client is still a stranger.
    GiveWay,
}

/// One connection's ear.
#[derive(Debug, Default)]
pub struct Control {
    order: Mutex<Option<Order>>,
    waker: AtomicWaker,
}

impl Control {
    /// Gives an order in place of one that was not looked at; but whoever is to leave or end is not told of others.
    pub fn give(&self, order: Order) {
        let mut slot = lock(&self.order);
        if order != Order::GiveWay || slot.is_none() {
            *slot = Some(order);
        }
        drop(slot);
        self.waker.wake();
    }

    /// The newest order, once. Registers the task for being woken.
    pub fn poll_order(&self, cx: &mut Context<'_>) -> Option<Order> {
        self.waker.register(cx.waker());
        lock(&self.order).take()
    }
}

/// All open connections of a node, at most so many.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    inner: Mutex<Inner>,
    fewer: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the order in which they came.
    open: BTreeMap<u64, Arc<Control>>,
    /// Those of strangers that were not told to give way, since when; by the order in which they came as well.
    strangers: BTreeMap<u64, Instant>,
    next: u64,
    /// Set once the node ends.
    ending: Option<Order>,
}

/// A connection's place among the open ones, until it is dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    id: u64,
    /// How the node reaches it.
    pub control: Arc<Control>,
}

impl Connections {
    /// None yet, and at most `max`.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, inner: Mutex::default(), fewer: Notify::new() })
    }

    /// A place for one more, a stranger; `None` when all are taken.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let now = clock::now();
        let mut inner = self.lock();
        inner.make_way(self.max, now);
        if inner.open.len() >= self.max {
            return None;
        }
        let control = Arc::new(Control::default());
        if let Some(order) = &inner.ending {
            control.give(order.clone());
        }
        let id = inner.next;
        inner.next += 1;
        inner.open.insert(id, control.clone());
        inner.strangers.insert(id, now);
        Some(Place { connections: self.clone(), id, control })
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks those who are here to go to one of `urls`, each within a time of its own: the first
    /// within `first_ms`, the others after it, `per_ms` of them each millisecond. Returns the last
    /// one's time, in milliseconds.
    pub fn leave(&self, urls: &[Arc<str>], first_ms: u64, per_ms: usize) -> u64 {
        let inner = self.lock();
        let mut after_ms = first_ms;
        for (number, (control, url)) in inner.open.values().zip(urls.iter().cycle()).enumerate() {
            after_ms = first_ms + (number / per_ms) as u64;
            control.give(Order::Leave { after_ms, url: url.clone() });
        }
        after_ms
    }

    /// Ends all connections, those that still come too; their clients should be back (elsewhere, if
    /// they can) after a random time of up to `after_ms`.
    pub fn end(&self, after_ms: u64) {
        let mut inner = self.lock();
        let order = inner.ending.insert(Order::End { after_ms }).clone();
        inner.open.values().for_each(|control| control.give(order.clone()));
    }

    /// Resolves when none is open.
    pub async fn emptied(&self) {
        loop {
            let fewer = self.fewer.notified();
            if self.is_empty() {
                return;
            }
            fewer.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    /// Ends the stranger who came first, if there are too many of them; `max`: all places.
    fn make_way(&mut self, max: usize, now: Instant) {
        let sessions = self.open.len() - self.strangers.len();
        if self.strangers.len() >= (max - sessions) / 2
            && let Some(first) = self.strangers.first_entry()
            && now - *first.get() >= GRACE
        {
            let (id, _) = first.remove_entry();
            if let Some(control) = self.open.get(&id) {
                control.give(Order::GiveWay);
            }
        }
    }
}

impl Place {
    /// Its client has shown a token that counts, and is no stranger any more.
    pub fn greeted(&self) {
        self.connections.lock().strangers.remove(&self.id);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.connections.lock();
        inner.open.remove(&self.id);
        inner.strangers.remove(&self.id);
        if inner.open.is_empty() {
            self.connections.fewer.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use cluster::env::tasks;

    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let connections = Connections::new(2);
        let (one, two) = (connections.enter().unwrap(), connections.enter().unwrap());
        assert!(connections.enter().is_none());
        drop(one);
        let three = connections.enter().unwrap();
        assert_eq!((two.id, three.id, connections.len()), (1, 2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_give_way_and_sessions_do_not() {
        let connections = Connections::new(9);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut told = |place: &Place| place.control.poll_order(&mut cx) == Some(Order::GiveWay);
        let session = connections.enter().unwrap();
        session.greeted();
        let early: Vec<_> = (0..4).map(|_| connections.enter().unwrap()).collect();
        clock::sleep(GRACE / 2).await;
        let late: Vec<_> = (0..2).map(|_| connections.enter().unwrap()).collect();
        assert!(!early.iter().any(&mut told), "everybody has time for a hello");
        clock::sleep(GRACE / 2).await;
        let _next = connections.enter().unwrap();
        let all: Vec<bool> = [&session].into_iter().chain(&early).chain(&late).map(&mut told).collect();
        assert_eq!(all, [false, true, false, false, false, false, false]);
        early[1].greeted();
        let _last = connections.enter().unwrap();
        assert!(!told(&early[1]) && told(&early[2]), "who has said hello is no stranger");
        assert!(connections.enter().is_none(), "those who were told have still to go");
        drop(early);
        assert!(connections.enter().is_some());
        assert_eq!(connections.lock().strangers.len(), 4, "late ones, the next and the last");
    }

    #[test]
    fn those_who_leave_are_spread_over_time_and_nodes() {
        let connections = Connections::new(9);
        let places: Vec<_> = (0..5).map(|_| connections.enter().unwrap()).collect();
        let urls = ["ws://a/ws".into(), "ws://b/ws".into()];
        assert_eq!(connections.leave(&urls, 200, 2), 202);
        let late = connections.enter().unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let told = places.iter().map(|place| match place.control.poll_order(&mut cx) {
            Some(Order::Leave { after_ms, url }) => (after_ms, url.as_bytes()[5]),
            other => panic!("{other:?}"),
        });
        assert_eq!(told.collect::<Vec<_>>(), [(200, b'a'), (200, b'b'), (201, b'a'), (201, b'b'), (202, b'a')]);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(late.control.poll_order(&mut cx), None);
        assert_eq!(connections.leave(&[], 200, 2), 200, "nowhere to go");
    }

    #[tokio::test]
    async fn everybody_is_told_and_waited_for() {
        let connections = Connections::new(9);
        let early = connections.enter().unwrap();
        connections.end(0);
        let late = connections.enter().unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for place in [&early, &late] {
            assert_eq!(place.control.poll_order(&mut cx), Some(Order::End { after_ms: 0 }));
            assert_eq!(place.control.poll_order(&mut cx), None, "told once");
        }
        let emptied = tasks::spawn({
            let connections = connections.clone();
            async move { connections.emptied().await }
        });
        tokio::task::yield_now().await;
        drop((early, late));
        emptied.await.unwrap();
    }
}
