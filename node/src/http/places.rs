//! Places for streams that are no WebSocket yet, or never will be.
//!
//! Invariant: never more are taken than there are. When all are, whoever comes takes the place of a stream that is
//! between two requests, or has asked nothing in its first second: of these, the one that has been so for the longest
//! time. So no crowd keeps others out, or operators, whether it is silent or asks all the time: who was answered has
//! had its turn, and may come again like anybody else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::env::clock::{self, Instant};
use cluster::sync::lock;
use tokio::sync::Notify;

/// Time for a stream to ask something, whoever waits; and for one that was told to end, until another one is.
const GRACE: Duration = Duration::from_secs(1);

/// All of them.
pub struct Places {
    most: usize,
    inner: Mutex<Inner>,
    /// A place was given back, or its stream may give way.
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    taken: usize,
    next: u64,
    /// Streams that ask nothing, from when on each may give way, and how it is told to end.
    idle: BTreeMap<(Instant, u64), Arc<Notify>>,
}

/// A stream's place, given back when it is dropped. It idles until it is [`Place::ask`]ed something.
pub struct Place {
    places: Arc<Places>,
    number: u64,
    end: Arc<Notify>,
    state: Mutex<State>,
}

struct State {
    /// Requests that are being answered.
    asked: usize,
    /// There was any.
    has_asked: bool,
    may_end_at: Instant,
}

/// A request on a stream; its end is when it is dropped.
pub struct Asked(Arc<Place>);

impl Places {
    /// So many, none of which is taken.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, inner: Mutex::default(), changed: Notify::new() })
    }

    /// Whether all are taken.
    pub fn are_full(&self) -> bool {
        lock(&self.inner).taken >= self.most
    }

    /// Takes a place, once there is one; for one caller at a time. `ended` is told of each stream that must end for it.
    pub async fn take(self: &Arc<Self>, ended: impl Fn()) -> Arc<Place> {
        // From when on one more may be told to end.
        let mut next_at = Instant::default();
        loop {
            let changed = self.changed.notified();
            let now = clock::now();
            let look_again = {
                let mut inner = lock(&self.inner);
                if inner.taken < self.most {
                    return self.place(&mut inner, now);
                }
                match inner.idle.first_entry() {
                    Some(longest) if longest.key().0.max(next_at) <= now => {
                        longest.remove().notify_one();
                        ended();
                        next_at = now + GRACE;
                        Some(next_at)
                    }
                    Some(longest) => Some(longest.key().0.max(next_at)),
                    None => None,
                }
            };
            match look_again {
                // Whoever ends the wait is looked for above.
                Some(at) => drop(clock::timeout(at - now, changed).await),
                None => changed.await,
            }
        }
    }

    fn place(self: &Arc<Self>, inner: &mut Inner, now: Instant) -> Arc<Place> {
        inner.taken += 1;
        inner.next += 1;
        let (number, end, may_end_at) = (inner.next, Arc::new(Notify::new()), now + GRACE);
        inner.idle.insert((may_end_at, number), end.clone());
        let state = Mutex::new(State { asked: 0, has_asked: false, may_end_at });
        Arc::new(Place { places: self.clone(), number, end, state })
    }
}

impl Place {
    /// Something is asked on the stream.
    pub fn ask(self: &Arc<Self>) -> Asked {
        let mut state = lock(&self.state);
        state.asked += 1;
        state.has_asked = true;
        lock(&self.places.inner).idle.remove(&(state.may_end_at, self.number));
        Asked(self.clone())
    }

    /// Whether there ever was a request.
    pub fn has_asked(&self) -> bool {
        lock(&self.state).has_asked
    }

    /// Ready when the place is needed more by somebody else.
    pub async fn lost(&self) {
        self.end.notified().await;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let place = &self.0;
        let mut state = lock(&place.state);
        state.asked -= 1;
        if state.asked == 0 {
            state.may_end_at = clock::now();
            lock(&place.places.inner).idle.insert((state.may_end_at, place.number), place.end.clone());
            place.places.changed.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let may_end_at = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).may_end_at;
        let mut inner = lock(&self.places.inner);
        inner.idle.remove(&(may_end_at, self.number));
        inner.taken -= 1;
        drop(inner);
        self.places.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_gives_way_the_longest_first() {
        let places = Places::new(3);
        let ended = Cell::new(0);
        let take = async || places.take(|| ended.set(ended.get() + 1)).await;
        let busy = take().await;
        let _asked = busy.ask();
        let older = take().await;
        clock::sleep(GRACE / 4).await;
        let newer = take().await;
        let mut next = std::pin::pin!(take());
        let mut wait = async |time| clock::timeout(time, &mut next).await;
        assert!(wait(GRACE / 2).await.is_err() && ended.get() == 0, "everybody has time to ask");
        assert!(wait(GRACE).await.is_err() && ended.get() == 1, "its place is taken only once it has gone");
        assert!(older.lost().now_or_never().is_some());
        assert!(newer.lost().now_or_never().is_none() && busy.lost().now_or_never().is_none());
        drop(older);
        let _next = wait(Duration::ZERO).await.expect("there is room");
        assert!(places.are_full() && ended.get() == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_that_asks_all_the_time_keeps_nobody_out() {
        let places = Places::new(3);
        let ended = Cell::new(0);
        let take = async || places.take(|| ended.set(ended.get() + 1)).await;
        let (busy, crowd, silent) = (take().await, take().await, take().await);
        let asked = busy.ask();
        drop(crowd.ask());
        let mut next = std::pin::pin!(take());
        let mut wait = async |time| clock::timeout(time, &mut next).await;
        assert!(wait(Duration::ZERO).await.is_err() && ended.get() == 1);
        assert!(crowd.lost().now_or_never().is_some(), "between two requests");
        drop(asked);
        assert!(wait(GRACE / 2).await.is_err() && ended.get() == 1, "one at a time");
        assert!(wait(GRACE).await.is_err() && ended.get() == 2, "and another one if that does not go");
        assert!(busy.lost().now_or_never().is_some() && silent.lost().now_or_never().is_none());
        drop(crowd);
        assert!(wait(Duration::ZERO).await.is_ok(), "there is room");
    }
}
