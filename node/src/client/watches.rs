//! Whom the application watches, and the latest that it has not taken of each: a pure core.
//!
//! Invariants: on every connection all who are watched are asked for, so the application need not do so again; no
//! frame holds a name that is none, for which a node would refuse all of the frame; of one user nothing older is told
//! after something newer, whatever node says it; a slow application misses what is over, and never how it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cluster::id::UserId;

use crate::protocol::{ClientBody, ClientFrame, ErrorCode, Presence, Status, Watch};

/// The id of a frame about watches. Answers come in the order of the frames.
pub const WATCH_ID: u64 = 4;

/// Room in a frame for what is no name, bytes.
const FRAME: usize = 64;

/// How somebody who is watched was seen last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// With how many devices; 0: offline.
    pub devices: u32,
    /// See [`Presence::v`].
    pub version: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Watches {
    /// All who are watched.
    users: BTreeMap<String, Option<Seen>>,
    /// Those of whom the application has not taken the latest.
    fresh: BTreeSet<String>,
    to_watch: BTreeSet<String>,
    to_unwatch: BTreeSet<String>,
    /// Frames without an answer on this connection: the users, where they were to be watched.
    asked: VecDeque<Vec<String>>,
}

impl Watches {
    /// The application wants to know of these. Those whose names are none are not watched, and returned.
    pub fn watch(&mut self, users: impl IntoIterator<Item = String>) -> Vec<String> {
        let (users, wrong): (Vec<String>, Vec<String>) = users.into_iter().partition(|user| UserId::new(user).is_ok());
        for user in users {
            self.to_unwatch.remove(&user);
            self.to_watch.insert(user.clone());
            self.users.entry(user).or_default();
        }
        wrong
    }

    /// It does not any more.
    pub fn unwatch(&mut self, users: impl IntoIterator<Item = String>) {
        for user in users {
            if self.users.remove(&user).is_some() && !self.to_watch.remove(&user) {
                self.to_unwatch.insert(user.clone());
            }
            self.fresh.remove(&user);
        }
    }

    /// A new connection, which knows nothing of this; where the cluster's log began anew, old versions mean nothing.
    pub fn connected(&mut self, log_began_anew: bool) {
        if log_began_anew {
            self.users.values_mut().flatten().for_each(|seen| seen.version = 0);
        }
        self.to_watch = self.users.keys().cloned().collect();
        self.to_unwatch.clear();
        self.asked.clear();
    }

    /// The next frame to write, of at most so many bytes.
    pub fn next_frame(&mut self, frame_bytes: usize) -> Option<String> {
        let unwatch = !self.to_unwatch.is_empty();
        let names = if unwatch { &mut self.to_unwatch } else { &mut self.to_watch };
        let (mut users, mut left) = (Vec::new(), frame_bytes.saturating_sub(FRAME));
        while let Some(user) = names.pop_first() {
            // Quotes and a comma; a name may have to be escaped.
            let bytes = user.len() * 2 + 3;
            if bytes > left && !users.is_empty() {
                names.insert(user);
                break;
            }
            left = left.saturating_sub(bytes);
            users.push(user);
        }
        if users.is_empty() {
            return None;
        }
        let watch = Watch { users: users.iter().map(|user| user.as_str().into()).collect() };
        let body = if unwatch { ClientBody::Unwatch(watch) } else { ClientBody::Watch(watch) };
        let frame = ClientFrame { id: Some(WATCH_ID), body }.encode();
        self.asked.push_back(if unwatch { Vec::new() } else { users });
        Some(frame)
    }

    /// The answer to the oldest frame. Those who are refused are watched no more, and returned; a node that
    /// knows no watches refuses nobody: the next one may.
    pub fn answered(&mut self, refused: Option<ErrorCode>) -> Vec<String> {
        let asked = self.asked.pop_front().unwrap_or_default();
        if refused.is_none_or(|code| code == ErrorCode::UnknownType) {
            return Vec::new();
        }
        let gone = asked.into_iter().filter(|user| self.users.remove(user).is_some());
        let gone: Vec<String> = gone.collect();
        self.fresh.retain(|user| self.users.contains_key(user));
        gone
    }

    /// What a node says of somebody.
    pub fn told(&mut self, presence: &Presence<'_>) {
        let Some(seen) = self.users.get_mut(presence.user.as_ref()) else { return };
        if seen.is_some_and(|seen| presence.v < seen.version) {
            return;
        }
        let devices = match presence.status {
            Status::Offline => 0,
            Status::Online | Status::Other => presence.devices.max(1),
        };
        *seen = Some(Seen { devices, version: presence.v });
        self.fresh.insert(presence.user.clone().into_owned());
    }

    /// The next of whom the application has not taken the latest.
    pub fn take(&mut self) -> Option<(String, Seen)> {
        let user = self.fresh.pop_first()?;
        let seen = self.users.get(&user).copied().flatten()?;
        Some((user, seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(users: &[&str]) -> Vec<String> {
        users.iter().map(|&user| user.to_owned()).collect()
    }

    fn presence(user: &'static str, devices: u32, v: u64) -> Presence<'static> {
        let status = if devices > 0 { Status::Online } else { Status::Offline };
        Presence { user: user.into(), status, devices, v }
    }

    #[test]
    fn every_connection_is_asked_for_all() {
        let mut watches = Watches::default();
        watches.watch(names(&["bob", "carol"]));
        let both = r#"{"id":4,"watch":{"users":["bob","carol"]}}"#;
        assert_eq!(watches.next_frame(1_000).as_deref(), Some(both));
        assert_eq!(watches.next_frame(1_000), None);
        watches.connected(false);
        assert_eq!(watches.next_frame(1_000).as_deref(), Some(both));
        watches.unwatch(names(&["bob", "dave"]));
        assert_eq!(watches.next_frame(1_000).as_deref(), Some(r#"{"id":4,"unwatch":{"users":["bob"]}}"#));
        watches.connected(false);
        assert_eq!(watches.next_frame(1_000).as_deref(), Some(r#"{"id":4,"watch":{"users":["carol"]}}"#));
        watches.watch(names(&["eve"]));
        watches.unwatch(names(&["eve"]));
        assert_eq!(watches.next_frame(1_000), None, "nothing was asked, nothing is to be taken back");
    }

    #[test]
    fn a_name_that_is_none_costs_the_others_nothing() {
        let mut watches = Watches::default();
        let long = "x".repeat(129);
        assert_eq!(watches.watch(names(&["bob", "", "carol", "a\nb", &long])), names(&["", "a\nb", &long]));
        watches.unwatch(names(&["", &long]));
        for _ in 0..2 {
            assert_eq!(watches.next_frame(1_000).as_deref(), Some(r#"{"id":4,"watch":{"users":["bob","carol"]}}"#));
            assert_eq!(watches.next_frame(1_000), None);
            watches.connected(false);
        }
    }

    #[test]
    fn a_frame_is_no_larger_than_it_may_be() {
        let mut watches = Watches::default();
        watches.watch((0..100).map(|n| format!("{n:0128}")));
        let mut asked = 0;
        while let Some(frame) = watches.next_frame(1_024) {
            assert!(frame.len() <= 1_024);
            asked += frame.matches(',').count();
        }
        assert_eq!(asked, 100);
    }

    #[test]
    fn the_latest_is_told_and_nothing_older() {
        let mut watches = Watches::default();
        watches.watch(names(&["bob"]));
        watches.told(&presence("bob", 1, 7));
        watches.told(&presence("bob", 0, 9));
        watches.told(&presence("carol", 1, 9));
        let seen = |devices, version| Some(("bob".to_owned(), Seen { devices, version }));
        assert_eq!((watches.take(), watches.take()), (seen(0, 9), None));
        watches.connected(false);
        watches.told(&presence("bob", 1, 8));
        assert_eq!(watches.take(), None, "another node, which lags");
        watches.told(&presence("bob", 2, 10));
        assert_eq!(watches.take(), seen(2, 10));
        watches.told(&presence("bob", 0, 11));
        watches.unwatch(names(&["bob"]));
        watches.told(&presence("bob", 1, 12));
        assert_eq!(watches.take(), None);
        watches.watch(names(&["bob"]));
        watches.told(&presence("bob", 1, 13));
        watches.connected(true);
        watches.told(&presence("bob", 0, 2));
        assert_eq!(watches.take(), seen(0, 2), "another log");
    }

    #[test]
    fn who_is_refused_is_watched_no_more() {
        let mut watches = Watches::default();
        watches.watch(names(&["bob"]));
        watches.next_frame(1_000);
        watches.watch(names(&["carol", "dave"]));
        watches.next_frame(1_000);
        assert_eq!(watches.answered(Some(ErrorCode::UnknownType)), names(&[]));
        assert_eq!(watches.answered(Some(ErrorCode::TooManyWatches)), names(&["carol", "dave"]));
        watches.connected(false);
        assert_eq!(watches.next_frame(1_000).as_deref(), Some(r#"{"id":4,"watch":{"users":["bob"]}}"#));
    }
}
