//! Which sessions of this node watch whom, and what each is told: a pure core.
//!
//! Invariants: a watcher's last news equals what the log says once nothing changes any more, whatever was left
//! out between; on one session versions never go back; what is kept and done grows with what is watched here, not
//! with how many users there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::damped::{Count, Damped};
use crate::env::clock::Instant;
use crate::id::UserId;
use crate::origin::Key;

/// For so long after it was asked, a watcher is told of every change, though as many devices are there as it was told
/// last: it may know a newer version of another node, from an older connection, and drop what this node said at
/// first. A node that lags further behind than five seconds sends its clients away.
const YOUNG: Duration = Duration::from_secs(10);

/// How a user is seen in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// How many devices are there.
    pub count: Count,
    /// Somebody has just left: see [`Damped::new`].
    pub just_left: bool,
}

/// To tell to these sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// How many devices are there.
    pub count: Count,
    /// The sessions.
    pub to: Vec<Key>,
}

/// One session's watch of one user.
#[derive(Debug, Clone, Copy)]
struct Watch {
    since: Instant,
    /// The last version told; 0 if none was.
    version: u64,
}

#[derive(Debug, Default)]
struct Watched {
    by: BTreeMap<Key, Watch>,
    damped: Option<Damped>,
    /// As many devices were told last.
    told: Option<u32>,
    /// Sessions may have begun or ended since it was looked at; else somebody new wants to know.
    stirred: bool,
    /// The time under which it stands among the deadlines.
    due: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Watches {
    users: HashMap<UserId, Watched>,
    sessions: HashMap<Key, BTreeSet<UserId>>,
    /// To be looked at.
    changed: BTreeSet<UserId>,
    deadlines: BTreeSet<(Instant, UserId)>,
    pairs: usize,
}

/// A session would watch more users than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

impl Watches {
    /// A session watches these users, too. Each is told anew, those watched before as well.
    ///
    /// # Errors
    /// When these would be more than `most` in all; then nothing has changed.
    pub fn add(&mut self, key: Key, users: BTreeSet<UserId>, most: usize, now: Instant) -> Result<(), TooMany> {
        let own = self.sessions.get(&key);
        let more = users.iter().filter(|user| own.is_none_or(|own| !own.contains(*user))).count();
        if own.map_or(0, BTreeSet::len) + more > most {
            return Err(TooMany);
        }
        self.pairs += more;
        for user in &users {
            let watched = self.users.entry(user.clone()).or_default();
            watched.by.insert(key, Watch { since: now, version: 0 });
            self.changed.insert(user.clone());
        }
        if !users.is_empty() {
            self.sessions.entry(key).or_default().extend(users);
        }
        Ok(())
    }

    /// A session watches these users no more.
    pub fn remove(&mut self, key: Key, users: &BTreeSet<UserId>) {
        let Some(own) = self.sessions.get_mut(&key) else { return };
        let gone: Vec<UserId> = users.iter().filter(|user| own.remove(*user)).cloned().collect();
        if own.is_empty() {
            self.sessions.remove(&key);
        }
        gone.iter().for_each(|user| self.forget(key, user));
    }

    /// A session is over.
    pub fn end(&mut self, key: Key) {
        for user in self.sessions.remove(&key).unwrap_or_default() {
            self.forget(key, &user);
        }
    }

    fn forget(&mut self, key: Key, user: &UserId) {
        self.pairs -= 1;
        let watched = self.users.get_mut(user).expect("who is watched is known");
        watched.by.remove(&key);
        if watched.by.is_empty() {
            if let Some(due) = watched.due {
                self.deadlines.remove(&(due, user.clone()));
            }
            self.users.remove(user);
            self.changed.remove(user);
        }
    }

    /// Pairs of a session and a user whom it watches.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// Sessions of these users may have begun or ended; whether any of them is watched here.
    pub fn changed(&mut self, users: &[UserId]) -> bool {
        if self.users.is_empty() {
            return false;
        }
        let mut any = false;
        for user in users {
            if let Some(watched) = self.users.get_mut(user) {
                watched.stirred = true;
                self.changed.insert(user.clone());
                any = true;
            }
        }
        any
    }

    /// Anything may have changed.
    pub fn all_changed(&mut self) {
        self.users.values_mut().for_each(|watched| watched.stirred = true);
        self.changed.extend(self.users.keys().cloned());
    }

    /// Up to `most` users who are to be looked at now.
    pub fn take(&mut self, most: usize, now: Instant) -> Vec<UserId> {
        while let Some((due, _)) = self.deadlines.first()
            && *due <= now
        {
            let (_, user) = self.deadlines.pop_first().expect("it was seen");
            self.users.get_mut(&user).expect("who is watched is known").due = None;
            self.changed.insert(user);
        }
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(user) = self.changed.pop_first()
        {
            taken.push(user);
        }
        taken
    }

    /// When somebody is to be looked at: at once, if it is in the past.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        if self.changed.is_empty() { self.deadlines.first().map(|(due, _)| *due) } else { Some(Instant::default()) }
    }

    /// A user was looked at. Whom to tell what, if anybody.
    pub fn observed(&mut self, user: &UserId, sight: Sight, now: Instant) -> Option<News> {
        let watched = self.users.get_mut(user)?;
        let damped = match &mut watched.damped {
            Some(damped) => {
                damped.observe(sight.count, now);
                damped
            }
            none => none.insert(Damped::new(sight.count, sight.just_left, now)),
        };
        let (told, due) = (damped.told(), damped.due());
        if due != watched.due {
            if let Some(before) = watched.due {
                self.deadlines.remove(&(before, user.clone()));
            }
            if let Some(due) = due {
                self.deadlines.insert((due, user.clone()));
            }
            watched.due = due;
        }
        let count = told?;
        let stirred = std::mem::take(&mut watched.stirred);
        let is_new = watched.told.replace(count.devices) != Some(count.devices);
        let mut to = Vec::new();
        for (key, watch) in &mut watched.by {
            let is_young = stirred && now < watch.since + YOUNG && watch.version < count.version;
            if is_new || watch.version == 0 || is_young {
                watch.version = count.version;
                to.push(*key);
            }
        }
        (!to.is_empty()).then_some(News { count, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn users(names: &[&str]) -> BTreeSet<UserId> {
        names.iter().map(|name| user(name)).collect()
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn sight(devices: u32, version: u64) -> Sight {
        Sight { count: Count { devices, version }, just_left: false }
    }

    fn told(news: Option<News>) -> Option<(u32, u64, Vec<Key>)> {
        news.map(|news| (news.count.devices, news.count.version, news.to))
    }

    #[test]
    fn a_watcher_is_told_how_it_is_and_then_what_changes() {
        let mut watches = Watches::default();
        watches.add(1, users(&["bob"]), 9, at(0)).unwrap();
        assert_eq!(watches.take(9, at(0)), [user("bob")]);
        assert_eq!(told(watches.observed(&user("bob"), sight(0, 5), at(0))), Some((0, 5, vec![1])));
        assert!(!watches.changed(&[user("carol")]), "nobody watches carol");
        assert!(watches.changed(&[user("bob"), user("carol")]));
        assert_eq!(watches.take(9, at(1)), [user("bob")]);
        assert_eq!(told(watches.observed(&user("bob"), sight(1, 7), at(1))), Some((1, 7, vec![1])));
        assert_eq!((watches.due(), watches.pairs()), (None, 1));
        watches.add(2, users(&["bob"]), 9, at(2)).unwrap();
        assert_eq!(watches.take(9, at(2)), [user("bob")]);
        assert_eq!(told(watches.observed(&user("bob"), sight(1, 7), at(2))), Some((1, 7, vec![2])));
        watches.end(1);
        assert_eq!(told(watches.observed(&user("bob"), sight(2, 9), at(3))), Some((2, 9, vec![2])));
        watches.remove(2, &users(&["bob", "carol"]));
        assert_eq!(watches.pairs(), 0);
        assert!(!watches.changed(&[user("bob")]));
        assert!(watches.users.is_empty() && watches.sessions.is_empty() && watches.deadlines.is_empty());
    }

    #[test]
    fn a_fall_comes_due() {
        let mut watches = Watches::default();
        watches.add(1, users(&["bob"]), 9, at(0)).unwrap();
        watches.take(9, at(0));
        watches.observed(&user("bob"), sight(1, 5), at(0));
        assert_eq!(told(watches.observed(&user("bob"), sight(0, 6), at(100))), None);
        assert_eq!((watches.due(), watches.take(9, at(3_099))), (Some(at(3_100)), vec![]));
        assert_eq!(watches.take(9, at(3_100)), [user("bob")]);
        assert_eq!(told(watches.observed(&user("bob"), sight(0, 8), at(3_100))), Some((0, 8, vec![1])));
    }

    #[test]
    fn who_may_know_a_newer_version_is_told_again() {
        let mut watches = Watches::default();
        watches.add(1, users(&["bob"]), 9, at(0)).unwrap();
        watches.take(9, at(0));
        watches.observed(&user("bob"), sight(0, 97), at(0));
        watches.add(2, users(&["bob"]), 9, at(0)).unwrap();
        watches.take(9, at(0));
        assert_eq!(told(watches.observed(&user("bob"), sight(0, 98), at(0))), Some((0, 98, vec![2])));
        // It was there and is gone, between two looks. A client that knew of that must not stay with it.
        watches.changed(&[user("bob")]);
        assert_eq!(told(watches.observed(&user("bob"), sight(0, 106), at(50))), Some((0, 106, vec![1, 2])));
        watches.changed(&[user("bob")]);
        assert_eq!(told(watches.observed(&user("bob"), sight(0, 200), at(20_000))), None);
    }

    #[test]
    fn limits() {
        let mut watches = Watches::default();
        watches.add(1, users(&["a", "b"]), 3, at(0)).unwrap();
        assert_eq!(watches.add(1, users(&["b", "c", "d"]), 3, at(0)), Err(TooMany));
        assert_eq!(watches.pairs(), 2);
        watches.add(1, users(&["b", "c"]), 3, at(0)).unwrap();
        watches.add(2, users(&[]), 0, at(0)).unwrap();
        assert_eq!((watches.pairs(), watches.sessions.len()), (3, 1));
        assert_eq!(watches.take(2, at(0)).len() + watches.take(2, at(0)).len(), 3, "a part at a time");
    }
}
