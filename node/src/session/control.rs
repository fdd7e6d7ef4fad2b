//! How the node reaches its open connections: to count them, and to send them away.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

/// One connection's ear.
#[derive(Debug, Default)]
pub struct Control {
    /// 0: nothing; else one more than the milliseconds within which the client is to be back.
    restart: AtomicU64,
    waker: AtomicWaker,
}

impl Control {
    fn restart(&self, after_ms: u64) {
        self.restart.store(after_ms.saturating_add(1), Ordering::Release);
        self.waker.wake();
    }

    /// The connection is to end because the node does; the client should be back within so many
    /// milliseconds. Registers the task for being woken.
    pub fn poll_restart(&self, cx: &mut Context<'_>) -> Option<u64> {
        self.waker.register(cx.waker());
        self.restart.load(Ordering::Acquire).checked_sub(1)
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
    next: u64,
    /// Set once the node sends everybody away.
    restart: Option<u64>,
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

    /// A place for one more, `None` when all are taken.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut inner = self.lock();
        if inner.open.len() >= self.max {
            return None;
        }
        let control = Arc::new(Control::default());
        if let Some(after_ms) = inner.restart {
            control.restart(after_ms);
        }
        let id = inner.next;
        inner.next += 1;
        inner.open.insert(id, control.clone());
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

    /// Sends everybody away, those who still come too; they should be back (elsewhere, if they
    /// can) after a random time of up to `after_ms`.
    pub fn restart(&self, after_ms: u64) {
        let mut inner = self.lock();
        inner.restart = Some(after_ms);
        inner.open.values().for_each(|control| control.restart(after_ms));
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
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.connections.lock();
        inner.open.remove(&self.id);
        if inner.open.is_empty() {
            self.connections.fewer.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[tokio::test]
    async fn everybody_is_told_and_waited_for() {
        let connections = Connections::new(9);
        let early = connections.enter().unwrap();
        connections.restart(0);
        let late = connections.enter().unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(early.control.poll_restart(&mut cx), Some(0));
        assert_eq!(late.control.poll_restart(&mut cx), Some(0));
        let emptied = tokio::spawn({
            let connections = connections.clone();
            async move { connections.emptied().await }
        });
        tokio::task::yield_now().await;
        drop((early, late));
        emptied.await.unwrap();
    }
}
