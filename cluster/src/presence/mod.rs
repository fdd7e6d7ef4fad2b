//! Who is there, told to those sessions of this node that want to know.
//!
//! Presence is not replicated anew: it is how many live sessions of a user the replicated state has, and its version
//! is the index of the log entry at which that is so. Versions are thus comparable across nodes and connections, and
//! what a version says is the same wherever it is told. Applying marks who changed; a task looks at those that are
//! watched here, at most once a [`TICK`], in the state as it is by then.
//!
//! Invariant: what waits for a session is one [`Presence`] for each user whom it watches, the latest: nothing is
//! stored, nothing queues, and none is lost without a later one.

mod damped;
mod watches;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

pub use damped::{Count, Damped, LINGER};
pub use watches::{News, Sight, TooMany, Watches};

use crate::env::clock;
use crate::handle::Inner;
use crate::id::UserId;
use crate::origin::Key;
use crate::router::Mailbox;
use crate::sync::lock;

/// Most often that a user is looked at.
pub const TICK: Duration = Duration::from_millis(50);

/// Users looked at under one lock.
const CHUNK: usize = 1_000;

/// A session that ended so long ago by replicated time, which goes in steps of five seconds, may have ended within
/// [`LINGER`], ms.
const JUST_LEFT_MS: u64 = 8_000;

/// How a user is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Who.
    pub user: UserId,
    /// How many devices are there, as the log says at this version.
    pub count: Count,
}

/// Watches of this node's sessions, and where to tell them.
#[derive(Default)]
pub(crate) struct Desk {
    watching: Mutex<Watching>,
    /// Somebody is to be looked at.
    work: Notify,
}

#[derive(Default)]
struct Watching {
    watches: Watches,
    /// Of the sessions that have watched somebody.
    mailboxes: HashMap<Key, Arc<Mailbox>>,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Watching> {
        lock(&self.watching)
    }

    /// A session watches these users, too.
    pub fn watch(&self, key: Key, mailbox: &Arc<Mailbox>, users: BTreeSet<UserId>, most: usize) -> Result<(), TooMany> {
        let mut watching = self.lock();
        watching.watches.add(key, users, most, clock::now())?;
        watching.mailboxes.entry(key).or_insert_with(|| mailbox.clone());
        drop(watching);
        self.work.notify_one();
        Ok(())
    }

    /// A session watches these users no more.
    pub fn unwatch(&self, key: Key, users: &BTreeSet<UserId>) {
        let mut watching = self.lock();
        watching.watches.remove(key, users);
        if let Some(mailbox) = watching.mailboxes.get(&key) {
            mailbox.unsee(users);
        }
    }

    /// A session is over.
    pub fn end(&self, key: Key) {
        let mut watching = self.lock();
        if watching.mailboxes.remove(&key).is_some() {
            watching.watches.end(key);
        }
    }

    /// Sessions of these users may have begun or ended.
    pub fn changed(&self, users: &[UserId]) {
        if self.lock().watches.changed(users) {
            self.work.notify_one();
        }
    }

    /// The state came from elsewhere: anything may have changed.
    pub fn all_changed(&self) {
        self.lock().watches.all_changed();
        self.work.notify_one();
    }

    /// Pairs of a session and a user whom it watches.
    pub fn pairs(&self) -> usize {
        self.lock().watches.pairs()
    }
}

/// Looks at whoever is to be looked at, for the life of the node.
pub(crate) async fn run(inner: Arc<Inner>) {
    let desk = &inner.router.desk;
    loop {
        let due = desk.lock().watches.due();
        match due {
            None => desk.work.notified().await,
            Some(due) if due > clock::now() => {
                tokio::select! {
                    biased;
                    () = desk.work.notified() => {}
                    () = clock::sleep_until(due) => {}
                }
            }
            Some(_) => {
                while look(&inner) == CHUNK {
                    tokio::task::yield_now().await;
                }
                clock::sleep(TICK).await;
            }
        }
    }
}

/// Looks at some, and tells what is new; how many they were.
fn look(inner: &Inner) -> usize {
    let desk = &inner.router.desk;
    let users = desk.lock().watches.take(CHUNK, clock::now());
    let sights: Vec<Sight> = {
        let state = inner.state();
        let version = state.applied();
        let see = |user: &UserId| {
            let devices = u32::try_from(state.sessions_of(user).count()).unwrap_or(u32::MAX);
            let just_left = devices == 0 && state.has_just_left(user, JUST_LEFT_MS);
            Sight { count: Count { devices, version }, just_left }
        };
        users.iter().map(see).collect()
    };
    let (mut watching, now, mut told) = (desk.lock(), clock::now(), 0);
    for (user, sight) in users.iter().zip(sights) {
        let Some(News { count, to }) = watching.watches.observed(user, sight, now) else { continue };
        told += to.len();
        for mailbox in to.iter().filter_map(|key| watching.mailboxes.get(key)) {
            mailbox.see(Presence { user: user.clone(), count });
        }
    }
    drop(watching);
    inner.observer.presence(told as u64);
    users.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_the_latest_of_each() {
        let (desk, mailbox) = (Desk::default(), Arc::new(Mailbox::default()));
        let user = |name| UserId::new(name).unwrap();
        let see = |name, devices, version| {
            let presence = Presence { user: user(name), count: Count { devices, version } };
            mailbox.see(presence.clone());
            presence
        };
        see("bob", 1, 5);
        let (bob, carol) = (see("bob", 0, 7), see("carol", 1, 6));
        assert_eq!(mailbox.take_presences(1), [bob]);
        assert_eq!(mailbox.take_presences(9), [carol]);
        let users: BTreeSet<UserId> = [user("bob")].into();
        assert_eq!(desk.watch(1, &mailbox, users.clone(), 1), Ok(()));
        see("bob", 1, 9);
        desk.unwatch(1, &users);
        assert_eq!((mailbox.take_presences(9), desk.pairs()), (vec![], 0));
    }
}
