//! Tokens that count no more: for a user, all that were issued before a time.
//!
//! Invariant: a revocation never becomes weaker while it is kept; and there are at most
//! [`MAX_REVOKED`] of them, each for [`KEPT_MS`] of replicated time. Which sessions that concerns,
//! their nodes know: the log holds no tokens. So all of the user's end here, which makes sure that nothing
//! which a node proposed before it knew of the revocation is stored after it; a node begins those again whose
//! tokens still count.

use std::collections::BTreeMap;

use super::command::ENDING_LEVEL;
use super::effect::Effect;
use super::machine::State;
use crate::id::{DeviceId, UserId};

/// Users whose tokens are revoked at a time. At the limit a further user's revocation does nothing;
/// the leader looks before it proposes one.
pub const MAX_REVOKED: usize = 10_000;

/// How long a revocation is kept, in ms of replicated time: longer than any sane token is good.
pub const KEPT_MS: u64 = 400 * 24 * 60 * 60 * 1000;

/// One user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Revocation {
    /// Tokens issued before it do not count, ms since the Unix epoch.
    pub before_ms: u64,
    /// When it is forgotten, by replicated time.
    pub forget_ms: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Revocations(pub BTreeMap<UserId, Revocation>);

impl Revocations {
    /// Takes one in; what holds for the user from now on, or `None` when there is no room.
    fn add(&mut self, user: &UserId, before_ms: u64, now_ms: u64) -> Option<u64> {
        let forget_ms = now_ms.saturating_add(KEPT_MS);
        if let Some(known) = self.0.get_mut(user) {
            *known = Revocation { before_ms: known.before_ms.max(before_ms), forget_ms };
            return Some(known.before_ms);
        }
        if self.0.len() >= MAX_REVOKED {
            return None;
        }
        self.0.insert(user.clone(), Revocation { before_ms, forget_ms });
        Some(before_ms)
    }

    /// Forgets those whose time is over.
    pub fn forget(&mut self, now_ms: u64) {
        self.0.retain(|_, revocation| revocation.forget_ms > now_ms);
    }
}

impl State {
    pub(super) fn revoke(&mut self, user: &UserId, before_ms: u64, effects: &mut Vec<Effect>) {
        let Some(before_ms) = self.revocations.add(user, before_ms, self.time_ms) else { return };
        if self.feature_level >= ENDING_LEVEL {
            self.end_sessions(user, effects);
        }
        effects.push(Effect::Revoked { user: user.clone(), before_ms });
    }

    /// Ends all sessions of a user, as if their connections were lost.
    fn end_sessions(&mut self, user: &UserId, effects: &mut Vec<Effect>) {
        let live: Vec<DeviceId> = self.sessions_of(user).map(|(device, _)| device.clone()).collect();
        for device in &live {
            let of = self.store.user(user).and_then(|user| user.device(device)).expect("it was just seen");
            let (node, epoch) = (of.session.expect("it has a session"), of.last.epoch);
            self.end_session(node, epoch);
            self.with(user, effects, |_, user, ctx| user.disconnect(device, ctx.now_ms, ctx.limits));
            effects.push(Effect::Ended { node, epoch });
        }
        if !live.is_empty() {
            effects.push(Effect::Presence(vec![user.clone()]));
        }
    }

    /// Of this user, tokens issued before this time do not count, ms since the Unix epoch.
    #[must_use]
    pub fn revoked_before(&self, user: &UserId) -> Option<u64> {
        self.revocations.0.get(user).map(|revocation| revocation.before_ms)
    }

    /// Whether another user's tokens can be revoked, at this number.
    #[must_use]
    pub fn has_room_to_revoke(&self, user: &UserId) -> bool {
        self.revocations.0.len() < MAX_REVOKED || self.revocations.0.contains_key(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: usize) -> UserId {
        UserId::new(&format!("u{n}")).expect("a good name")
    }

    #[test]
    fn the_latest_time_counts_and_stays() {
        let mut all = Revocations::default();
        assert_eq!(all.add(&user(1), 50, 0), Some(50));
        assert_eq!(all.add(&user(1), 40, 10), Some(50), "never weaker");
        assert_eq!(all.add(&user(1), 60, 20), Some(60));
        all.forget(KEPT_MS + 19);
        assert_eq!(all.0.len(), 1, "kept since it was last confirmed");
        all.forget(KEPT_MS + 20);
        assert!(all.0.is_empty());
    }

    #[test]
    fn they_are_limited() {
        let mut all = Revocations::default();
        assert!((0..MAX_REVOKED).all(|n| all.add(&user(n), 1, 0).is_some()));
        assert_eq!(all.add(&user(MAX_REVOKED), 1, 0), None);
        assert_eq!(all.add(&user(0), 2, 0), Some(2), "who is there can be confirmed");
        assert_eq!(all.0.len(), MAX_REVOKED);
    }
}
