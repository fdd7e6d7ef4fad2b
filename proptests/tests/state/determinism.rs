//! Replicas that applied the same log are equal, and logs reach what they are made for.

use std::collections::{BTreeMap, BTreeSet};

use cluster::id::{Pos, UserId};
use cluster::observer::Forgotten;
use cluster::state::{
    BatchRefusal, Command, Destination, Effect, GapReason, GroupRefusal, Item, Outcome, RegisterRefusal, SendRefusal,
    State,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::log::{Entry, any_log, devices, users};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// One replica gets the commands as they were made, the other one as they come from the log.
    #[test]
    fn replicas_stay_equal(log in any_log(60)) {
        let mut one = State::new();
        let mut other = State::new();
        for entry in &log.0 {
            let command = entry.command.as_ref().map(|command| Command::decode(&command.encode()).unwrap());
            let read = Entry { index: entry.index, command };
            prop_assert_eq!(entry.apply(&mut one), read.apply(&mut other));
            prop_assert_eq!(one.hash(), other.hash());
        }
        prop_assert_eq!(one.audit(), Ok(()));
    }

    /// What is refused or was there before leaves no trace; what is applied does.
    #[test]
    fn only_what_is_applied_changes_the_state(log in any_log(60)) {
        let mut state = State::new();
        for entry in &log.0 {
            let before = state.hash();
            let effects = entry.apply(&mut state);
            let applied = effects.iter().any(|effect| matches!(effect, Effect::BatchApplied { .. }));
            match &entry.command {
                Some(Command::Batch(_)) => prop_assert_eq!(applied, state.hash() != before),
                Some(Command::NodeUp(_) | Command::NodeDown { .. }) => {
                    prop_assert_eq!(effects.iter().any(is_turn), state.hash() != before);
                }
                None => prop_assert_eq!(state.hash(), before),
                Some(_) => {}
            }
        }
    }

    /// Whoever has as many devices there as before need not be looked at, and all others are named.
    #[test]
    fn presence_names_who_came_or_went(log in any_log(90)) {
        let mut state = State::new();
        for entry in &log.0 {
            let before = present(&state);
            let effects = entry.apply(&mut state);
            let named = effects.iter().flat_map(|effect| if let Effect::Presence(users) = effect { &users[..] } else { &[] });
            let named: BTreeSet<UserId> = named.cloned().collect();
            let after = present(&state);
            let changed: BTreeSet<UserId> = users().filter(|user| before.get(user) != after.get(user)).collect();
            prop_assert!(changed.is_subset(&named), "{:?} of {:?}", named, changed);
            if let Some(Command::Tick { .. } | Command::SetLimits(_)) | None = &entry.command {
                prop_assert!(named.is_empty());
            }
        }
    }
}

fn present(state: &State) -> BTreeMap<UserId, usize> {
    users().map(|user| (user.clone(), state.sessions_of(&user).count())).collect()
}

fn is_turn(effect: &Effect) -> bool {
    matches!(effect, Effect::NodeUp { .. } | Effect::NodeDown { .. })
}

/// The other properties say little about what never happens in their logs.
#[test]
fn logs_reach_everything() {
    let mut runner = TestRunner::deterministic();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..400 {
        let log = any_log(90).new_tree(&mut runner).unwrap().current();
        let mut state = State::new();
        for entry in &log.0 {
            let effects = entry.apply(&mut state);
            effects.iter().flat_map(reached).for_each(|what| *counts.entry(what).or_default() += 1);
            situations(&state).into_iter().for_each(|what| *counts.entry(what).or_default() += 1);
        }
    }
    for what in EVERYTHING {
        assert!(counts.get(what).is_some_and(|count| *count >= 20), "{what} is too rare in logs: {counts:#?}");
    }
}

const EVERYTHING: [&str; 54] = [
    "stored",
    "stored before",
    "refused",
    "refused before",
    "fenced",
    "registered",
    "conflict",
    "older attempt",
    "replaced",
    "too many devices",
    "batch repeated",
    "batch after gap",
    "batch fenced",
    "wake",
    "presence",
    "superseded",
    "lapsed live",
    "lapsed away",
    "first ack",
    "later ack",
    "expired",
    "node up",
    "node down",
    "node refused",
    "gap by limit",
    "gap by age",
    "gap before messages",
    "lapsed device",
    "retired device",
    "messages without device",
    "several devices",
    "device on a node that went down",
    "group woken",
    "lost in a group live",
    "lost in a group away",
    "expired in a group",
    "not a member",
    "unknown group",
    "group exists",
    "group full",
    "too many groups",
    "message of a group",
    "message of a group that was left",
    "copy",
    "copy for the only device",
    "gap without groups",
    "breaker opened",
    "breaker closed",
    "revoked",
    "traced",
    "ended",
    "forgotten on request",
    "forgotten as it left",
    "forgotten by age",
];

fn reached(effect: &Effect) -> Vec<&'static str> {
    match effect {
        Effect::BatchApplied { outcomes, .. } => outcomes.iter().filter_map(outcome).collect(),
        Effect::BatchRefused { refusal: BatchRefusal::Repeated, .. } => vec!["batch repeated"],
        Effect::BatchRefused { refusal: BatchRefusal::Gap { .. }, .. } => vec!["batch after gap"],
        Effect::BatchRefused { refusal: BatchRefusal::Fenced, .. } => vec!["batch fenced"],
        Effect::Traced(_) => vec!["traced"],
        Effect::Wake(_) => vec!["wake"],
        Effect::Presence(_) => vec!["presence"],
        Effect::WakeGroup(_) => vec!["group woken"],
        Effect::GroupLost { reason: GapReason::Expired, .. } => vec!["expired in a group"],
        Effect::GroupLost { lost, .. } => {
            let kind = |node: &Option<_>| if node.is_some() { "lost in a group live" } else { "lost in a group away" };
            lost.keys().map(kind).collect()
        }
        Effect::Superseded { .. } => vec!["superseded"],
        Effect::Ended { .. } => vec!["ended"],
        Effect::Lapsed { node: Some(_), .. } => vec!["lapsed live"],
        Effect::Lapsed { node: None, .. } => vec!["lapsed away"],
        Effect::Acked { first, .. } => vec![if first.is_empty() { "later ack" } else { "first ack" }],
        Effect::Forgotten { why: Forgotten::Request, .. } => vec!["forgotten on request"],
        Effect::Forgotten { why: Forgotten::Left, .. } => vec!["forgotten as it left"],
        Effect::Forgotten { why: Forgotten::Age, .. } => vec!["forgotten by age"],
        Effect::Expired { .. } => vec!["expired"],
        Effect::NodeUp { .. } => vec!["node up"],
        Effect::NodeDown { .. } => vec!["node down"],
        Effect::NodeRefused { .. } => vec!["node refused"],
        Effect::Breaker { open: true } => vec!["breaker opened"],
        Effect::Breaker { open: false } => vec!["breaker closed"],
        Effect::Revoked { .. } => vec!["revoked"],
    }
}

fn outcome(outcome: &Outcome) -> Option<&'static str> {
    Some(match outcome {
        Outcome::Registered(_) => "registered",
        Outcome::RegisterRefused(RegisterRefusal::Conflict { .. }) => "conflict",
        Outcome::RegisterRefused(RegisterRefusal::OlderAttempt) => "older attempt",
        Outcome::RegisterRefused(RegisterRefusal::Replaced) => "replaced",
        Outcome::RegisterRefused(RegisterRefusal::TooManyDevices) => "too many devices",
        Outcome::RegisterRefused(RegisterRefusal::TooManyForgotten) => return None,
        Outcome::Stored { duplicate: false, .. } => "stored",
        Outcome::Stored { duplicate: true, .. } => "stored before",
        Outcome::SendRefused { duplicate: false, refusal: SendRefusal::NotMember, .. } => "not a member",
        Outcome::SendRefused { duplicate: false, refusal: SendRefusal::UnknownGroup, .. } => "unknown group",
        Outcome::SendRefused { duplicate: false, .. } => "refused",
        Outcome::SendRefused { duplicate: true, .. } => "refused before",
        Outcome::Fenced => "fenced",
        Outcome::GroupRefused(GroupRefusal::Exists) => "group exists",
        Outcome::GroupRefused(GroupRefusal::Full) => "group full",
        Outcome::GroupRefused(GroupRefusal::TooMany) => "too many groups",
        Outcome::GroupRefused(GroupRefusal::Unknown) => "unknown group",
        Outcome::Done => return None,
    })
}

fn situations(state: &State) -> Vec<&'static str> {
    let mut found = Vec::new();
    for user in users() {
        let views: Vec<_> = devices().filter_map(|id| Some((state.device(&user, &id)?, id))).collect();
        if views.iter().filter(|(view, _)| view.known).count() > 1 {
            found.push("several devices");
        }
        for (view, id) in &views {
            found.extend(view.lapsed.then_some("lapsed device"));
            found.extend((!view.known).then_some("retired device"));
            let down = state.nodes().any(|(_, node)| node.generation.is_none());
            found.extend((down && view.known && view.session.is_none()).then_some("device on a node that went down"));
            let items = state.inbox(&user, id, Pos::ZERO, usize::MAX, usize::MAX);
            for item in &items {
                let Item::Message(message) = item else { continue };
                if matches!(&message.to, Destination::User(to) if *to != user) {
                    found.push("copy");
                    found.extend(
                        (views.iter().filter(|(view, _)| view.known).count() == 1)
                            .then_some("copy for the only device"),
                    );
                }
                let Destination::Group(group) = &message.to else { continue };
                let member = state.is_member(group, &user);
                found.push(if member { "message of a group" } else { "message of a group that was left" });
            }
            if let Some(Item::Gap { reason, .. }) = items.first() {
                let limit = *reason == GapReason::InboxLimit;
                found.push(if limit { "gap by limit" } else { "gap by age" });
                found.extend((items.len() > 1).then_some("gap before messages"));
                // Of the inbox and of copies.
                let gaps = items.iter().filter(|item| matches!(item, Item::Gap { .. })).count();
                found.extend((gaps > 1 && !state.has_groups()).then_some("gap without groups"));
            }
        }
    }
    let known: u64 = state.totals().devices;
    found.extend((known == 0 && state.totals().inbox_messages > 0).then_some("messages without device"));
    found
}
