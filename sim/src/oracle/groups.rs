//! Groups' limits: who was let in, and who was not, by a count of members that knows nothing but what was done.

use std::collections::{BTreeMap, BTreeSet};

use cluster::state::{GroupLimits, GroupRefusal};
use im_gateway::protocol::ErrorCode;

use super::{History, Violation, safety};
use crate::coverage;

/// Who is in which group.
#[derive(Default)]
pub struct GroupAccount {
    /// As the log says last.
    pub limits: GroupLimits,
    members: BTreeMap<String, BTreeSet<String>>,
    /// How often each user came into a group: what it left may still count, beside a group that it is in again.
    came: BTreeMap<String, usize>,
}

impl GroupAccount {
    fn groups_of(&self, user: &str) -> usize {
        self.members.values().filter(|members| members.contains(user)).count()
    }

    /// A user joined or made a group, or left it.
    pub fn done(&mut self, group: &str, user: &str, left: bool) -> Option<Violation> {
        let members = self.members.entry(group.to_owned()).or_default();
        if left {
            members.remove(user);
            return None;
        }
        let is_new = members.insert(user.to_owned());
        let count = members.len();
        *self.came.entry(user.to_owned()).or_default() += usize::from(is_new);
        let groups = self.groups_of(user);
        let over = count > self.limits.members as usize || groups > self.limits.per_user as usize;
        let text = || format!("G7: {user} was let into {group}, the {count}th of it, as the {groups}th of its groups");
        (is_new && over).then(|| safety(text()))
    }

    /// A user was not let in.
    pub fn refused(&self, group: &str, user: &str, refusal: GroupRefusal) -> Option<Violation> {
        let members = self.members.get(group).map_or(0, BTreeSet::len);
        let came = self.came.get(user).copied().unwrap_or_default();
        let (wrong, count) = match refusal {
            GroupRefusal::Full => {
                coverage::reached("a group was full");
                (members < self.limits.members as usize, members)
            }
            GroupRefusal::TooMany => {
                coverage::reached("a user was in too many groups");
                (came < self.limits.per_user as usize, came)
            }
            GroupRefusal::Unknown => (members > 0, members),
            GroupRefusal::Exists => (members == 0, members),
        };
        wrong.then(|| safety(format!("groups: {user} was refused {group} as {refusal:?}, at {count}")))
    }
}

/// Clients are told only what the log says.
pub fn check(history: &History, broken: &mut Vec<Violation>) {
    for (id, client) in history.book.clients.iter().enumerate() {
        for (at, group, code) in &client.not_joined {
            let refusal = if *code == ErrorCode::GroupFull { GroupRefusal::Full } else { GroupRefusal::TooMany };
            let said = (client.device.user.clone(), group.clone(), refusal);
            if !history.facts.not_joined.contains(&said) {
                let text =
                    format!("groups: {} was told {code:?} of {group}, and the log does not", history.book.client(id));
                broken.push(safety(text).at(*at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, found};
    use super::*;

    fn account() -> GroupAccount {
        let mut account = GroupAccount { limits: GroupLimits { members: 2, per_user: 1 }, ..GroupAccount::default() };
        assert!(account.done("#g", "u", false).is_none());
        assert!(account.done("#g", "v", false).is_none());
        account
    }

    #[test]
    fn let_in_over_the_limit() {
        assert!(account().done("#g", "w", false).is_some());
        assert!(account().done("#h", "u", false).is_some());
        assert!(account().done("#g", "u", false).is_none(), "it is in it");
        let mut left = account();
        left.done("#g", "v", true);
        assert!(left.done("#g", "w", false).is_none());
    }

    #[test]
    fn refused_though_there_is_room() {
        use GroupRefusal::{Exists, Full, TooMany, Unknown};
        for (group, user, refusal) in
            [("#g", "w", Full), ("#h", "u", TooMany), ("#h", "w", Unknown), ("#g", "w", Exists)]
        {
            assert!(account().refused(group, user, refusal).is_none(), "{refusal:?}");
        }
        for (group, user, refusal) in
            [("#h", "w", Full), ("#h", "w", TooMany), ("#g", "w", Unknown), ("#h", "w", Exists)]
        {
            assert!(account().refused(group, user, refusal).is_some(), "{refusal:?}");
        }
    }

    #[test]
    fn told_what_the_log_does_not_say() {
        let mut scene = Scene::good();
        scene.book.clients[0].not_joined.push((5, "g".into(), ErrorCode::GroupFull));
        found(&scene.broken_by(check), "was told GroupFull of g, and the log does not");
        scene.facts.not_joined.insert(("u".into(), "g".into(), GroupRefusal::Full));
        assert_eq!(scene.broken_by(check), Vec::<String>::new());
    }
}
