//! How fast one user may send over all connections to this node.
//!
//! Invariant: a pace is kept for as long as one of the user's sessions is here, and no longer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cluster::env::clock::Instant;
use cluster::id::UserId;
use cluster::sync::lock;

use crate::delivery::Pace;

type Shared = Arc<Mutex<Pace>>;

/// The paces of the users who are here.
#[derive(Debug)]
pub struct UserPaces {
    per_s: u32,
    /// Never iterated.
    paces: Mutex<HashMap<UserId, Shared>>,
}

/// One session's grip on its user's pace.
pub struct UserPace {
    all: Arc<UserPaces>,
    user: UserId,
    pace: Shared,
}

impl UserPaces {
    /// So many frames a second for each user; 0: no limit.
    #[must_use]
    pub fn new(per_s: u32) -> Arc<Self> {
        Arc::new(Self { per_s, paces: Mutex::default() })
    }

    /// A session of this user begins; `None` where there is no limit.
    #[must_use]
    pub fn enter(self: &Arc<Self>, user: &UserId) -> Option<UserPace> {
        if self.per_s == 0 {
            return None;
        }
        let mut paces = lock(&self.paces);
        let fresh = || Arc::new(Mutex::new(Pace::new(self.per_s)));
        let pace = paces.entry(user.clone()).or_insert_with(fresh).clone();
        Some(UserPace { all: self.clone(), user: user.clone(), pace })
    }
}

impl UserPace {
    /// From when on the user's next frame may be taken.
    #[must_use]
    pub fn ready_at(&self) -> Instant {
        lock(&self.pace).ready_at()
    }

    /// One is taken.
    pub fn take(&self, now: Instant) {
        lock(&self.pace).take(now);
    }
}

impl Drop for UserPace {
    fn drop(&mut self) {
        let mut paces = lock(&self.all.paces);
        // The table's and ours.
        if Arc::strong_count(&self.pace) <= 2 {
            paces.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cluster::env::clock;

    use super::*;

    #[test]
    fn sessions_of_a_user_share_one_pace_and_leave_nothing() {
        let all = UserPaces::new(2);
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let now = clock::now() + Duration::from_secs(60);
        let sessions = [all.enter(&alice).unwrap(), all.enter(&alice).unwrap(), all.enter(&bob).unwrap()];
        sessions[0].take(now);
        sessions[1].take(now);
        assert!(sessions[0].ready_at() > now && sessions[1].ready_at() > now, "two a second, of both together");
        assert!(sessions[2].ready_at() <= now);
        drop(sessions);
        assert!(lock(&all.paces).is_empty());
        assert!(UserPaces::new(0).enter(&alice).is_none());
    }
}
