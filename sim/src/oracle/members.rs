//! Who was in which group when, by the log and what the state machine answers to it: what each member must get, and
//! nobody else.

use std::collections::HashMap;

use super::facts::Facts;

/// Each user's times in each group: from a position, exclusive, up to another, if it left.
#[derive(Default)]
pub struct Members<'a>(HashMap<&'a str, HashMap<&'a str, Times>>);

type Times = Vec<(u64, Option<u64>)>;

impl<'a> Members<'a> {
    /// Joining twice is as joining once, and so is leaving.
    pub fn of(facts: &'a Facts) -> Self {
        let mut members = Self::default();
        for done in &facts.grouped {
            let times = members.0.entry(&done.group).or_default().entry(&done.user).or_default();
            match times.last_mut() {
                Some((_, until @ None)) if done.left => *until = Some(done.pos),
                Some((_, None)) => {}
                _ if done.left => {}
                _ => times.push((done.pos, None)),
            }
        }
        members
    }

    /// The members of a group at a position, by name.
    pub fn at(&self, group: &str, pos: u64) -> Vec<&'a str> {
        let there =
            |times: &Times| times.iter().any(|(from, until)| *from < pos && until.is_none_or(|until| pos < until));
        let users = self.0.get(group).into_iter().flatten();
        let mut users: Vec<_> = users.filter(|(_, times)| there(times)).map(|(user, _)| *user).collect();
        users.sort_unstable();
        users
    }

    /// Whether a user is in the group and has never left it.
    pub fn always(&self, group: &str, user: &str) -> bool {
        let times = self.0.get(group).and_then(|users| users.get(user));
        times.is_some_and(|times| matches!(times[..], [(_, None)]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Grouped;
    use super::*;

    #[test]
    fn who_comes_and_goes() {
        let done = |pos, user: &str, left| Grouped { pos, group: "#g".into(), user: user.into(), left };
        let grouped = vec![done(1, "a", false), done(3, "b", false), done(4, "b", false), done(6, "b", true)];
        let mut facts = Facts { grouped, ..Facts::default() };
        facts.grouped.extend([done(7, "b", true), done(9, "b", false)]);
        let members = Members::of(&facts);
        let at = |pos| members.at("#g", pos);
        assert_eq!((at(1), at(2), at(3)), (vec![], vec!["a"], vec!["a"]));
        assert_eq!((at(5), at(8), at(10)), (vec!["a", "b"], vec!["a"], vec!["a", "b"]));
        assert_eq!((members.always("#g", "a"), members.always("#g", "b")), (true, false));
        assert!(members.at("#other", 5).is_empty() && !members.always("#g", "c"));
    }
}
