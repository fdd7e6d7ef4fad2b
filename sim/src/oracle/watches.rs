//! G5, as watchers see it: what they are told of who is there is what the log says, soon enough, and no short
//! absence is told.

use std::collections::BTreeMap;

use super::facts::Present;
use super::{Facts, History, Violation, safety};
use crate::ledger::{Book, Client, Seen, Watching};
use crate::nemesis::FaultSpan;

/// An absence must last for so long before it is told, in ns, by a clock that may go wrong by a few per cent.
const LINGER: u64 = 3_000_000_000;
const LINGER_AT_LEAST: u64 = LINGER - LINGER / 30;
const LINGER_AT_MOST: u64 = LINGER + LINGER / 30;
/// While all is well, watchers know within this, in ns, what was committed, and lasts.
const SOON: u64 = 500_000_000;
/// All is well when the last fault is over for so long, in ns …
const WELL_AFTER: u64 = 10_000_000_000;
/// … or for so long, where a stream may have died without a word: a client finds that out after two heartbeats.
const HEARD_AFTER: u64 = 60_000_000_000;
/// Faults that let streams live, or end them with a word.
const TOLD: [&str; 12] = [
    "kill",
    "kill_all",
    "crash_loop",
    "drain",
    "rolling_restart",
    "fsync_error",
    "disk_error",
    "disk_full",
    "slow_disk",
    "clock_jump",
    "transfer_leader",
    "leader_churn",
];
/// A node's process dies; the machine's system says so.
const DEATH: &str = "kill";
/// A watcher knows how it is so long after it began to watch, or to have a session, in ns.
const SETTLED: u64 = 1_000_000_000;

type Presence = BTreeMap<String, Vec<Present>>;

fn devices(of: &[Present], version: u64) -> u32 {
    of.iter().rfind(|present| present.index <= version).map_or(0, |present| present.devices)
}

fn of<'a>(presence: &'a Presence, user: &str) -> &'a [Present] {
    presence.get(user).map_or(&[], Vec::as_slice)
}

/// What never may be told.
pub fn check(history: &History, broken: &mut Vec<Violation>) {
    for (id, client) in history.book.clients.iter().enumerate() {
        for watching in &client.watches {
            let presence = of(&history.facts.presence, &watching.user);
            let who = || format!("G5: {} was told that {}", history.book.client(id), watching.user);
            for seen in &watching.seen {
                let said = devices(presence, seen.version);
                if said != seen.devices {
                    let (told, version) = (seen.devices, seen.version);
                    let text = format!("{} has {told} devices at {version}, and the log says {said}", who());
                    broken.push(safety(text).at(seen.at));
                }
            }
            for pair in watching.seen.windows(2) {
                if pair[1].version < pair[0].version {
                    let text = format!("{} is as at {}, after {}", who(), pair[1].version, pair[0].version);
                    broken.push(safety(text).at(pair[1].at));
                }
                if one_session(client, &pair[0], &pair[1]) && has_flapped(presence, &pair[0], &pair[1]) {
                    let (fewer, more) = (pair[1].devices, pair[0].devices);
                    let text = format!("{} has {fewer} devices and not {more}, too soon", who());
                    broken.push(safety(text).at(pair[1].at));
                }
            }
        }
    }
}

fn one_session(client: &Client, first: &Seen, then: &Seen) -> bool {
    spans(client).any(|(at, end)| at <= first.at && then.at < end)
}

/// From when until when each session was the client's: one that it is moved away from ends without a word.
fn spans(client: &Client) -> impl Iterator<Item = (u64, u64)> {
    let next = client.sessions.iter().skip(1).map(|session| session.at).chain([u64::MAX]);
    client.sessions.iter().zip(next).map(|(session, next)| (session.at, session.ended_at.unwrap_or(next).min(next)))
}

/// Whether there were not fewer for long enough to tell.
fn has_flapped(presence: &[Present], first: &Seen, then: &Seen) -> bool {
    let fewer = |present: &&Present| present.index > first.version && present.devices < first.devices;
    let since = presence.iter().find(fewer).map_or(u64::MAX, |present| present.at);
    then.devices < first.devices && since.saturating_add(LINGER_AT_LEAST) > then.at
}

/// What watchers who are there have not been told yet.
pub fn missing(history: &History) -> Vec<String> {
    let mut missing = Vec::new();
    for (id, client) in history.book.clients.iter().enumerate() {
        if client.session().is_none() || !client.is_running() {
            continue;
        }
        for watching in client.watches.iter().filter(|watching| watching.until.is_none()) {
            let is = devices(of(&history.facts.presence, &watching.user), u64::MAX);
            let told = watching.seen.last().map(|seen| seen.devices);
            if told != Some(is) {
                let (who, user) = (history.book.client(id), &watching.user);
                missing.push(format!("G5: {who} was told {told:?} devices of {user}, and there are {is}"));
            }
        }
    }
    missing
}

/// What watchers were told late while all was well, until `now`.
pub fn check_soon(facts: &Facts, book: &Book, faults: &[FaultSpan], now: u64) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (id, client) in book.clients.iter().enumerate().filter(|(_, client)| !client.slow) {
        for watching in &client.watches {
            let presence = of(&facts.presence, &watching.user);
            for (n, present) in presence.iter().enumerate() {
                let Some(due) = due(presence, n) else { continue };
                let through = due + SOON;
                let goes = n > 0 && presence[n - 1].devices > present.devices;
                let disturbs =
                    |node| move |fault: &FaultSpan| disturbs(fault, present.at, through, goes.then_some(node));
                let node = watches(client, watching, present.at, through.min(now));
                if node.is_some_and(|node| !faults.iter().any(disturbs(node))) && through <= now {
                    let told = watching.seen.iter().rfind(|seen| seen.at <= through);
                    if told.is_none_or(|told| told.version < present.index && told.devices != present.devices) {
                        let (who, user, devices) = (book.client(id), &watching.user, present.devices);
                        let ms = (through - present.at) / 1_000_000;
                        let text = format!("G5: {who} was not told within {ms} ms that {user} has {devices} devices");
                        broken.push(safety(text).at(present.at));
                    }
                }
            }
        }
    }
    broken
}

/// Whether a fault may keep what was committed at `from` from being told until then, to a watcher on machine
/// `going` if it is that somebody goes.
fn disturbs(fault: &FaultSpan, from: u64, until: u64, going: Option<usize>) -> bool {
    // The process on another machine died before: that is what is to be told.
    let elsewhere = going.is_some_and(|node| fault.kind == DEATH && !fault.nodes.contains(&format!("n{node}")));
    if elsewhere && fault.from < from {
        return false;
    }
    let after = if TOLD.contains(&fault.kind.as_str()) { WELL_AFTER } else { HEARD_AFTER };
    fault.from <= until && from < fault.until.saturating_add(after)
}

/// When a change is to be told, if it must be: a rise above all that was so lately, at once; a fall that lasts, then.
fn due(presence: &[Present], n: usize) -> Option<u64> {
    let present = &presence[n];
    let before = presence[..n].iter().rev();
    // Each was so until the next one.
    let mut until = present.at;
    let mut lately = 0;
    for earlier in before {
        if until.saturating_add(LINGER_AT_MOST + SOON) < present.at {
            break;
        }
        lately = lately.max(earlier.devices);
        until = earlier.at;
    }
    if present.devices > lately {
        return Some(present.at);
    }
    let due = present.at + LINGER_AT_MOST;
    let lasts = presence.get(n + 1).is_none_or(|next| next.at > due + SOON);
    lasts.then_some(due)
}

/// On which machine the client has a session on which it watches all that time.
fn watches(client: &Client, watching: &Watching, from: u64, until: u64) -> Option<usize> {
    let settled = |since: u64| since + SETTLED <= from;
    let watched = settled(watching.since) && watching.until.is_none_or(|gone| until <= gone);
    if !watched || client.closed_at.is_some_and(|closed| closed < until) {
        return None;
    }
    let mut sessions = spans(client).zip(&client.sessions);
    let one = sessions.find(|((at, end), _)| *at <= from && until < *end && settled(*at));
    one.map(|(_, session)| session.node)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, found};
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// `w` (client 1) watches `v`, who comes at 20 s, is away for a second at 30 s, and leaves at 50 s.
    fn good() -> Scene {
        let mut scene = Scene::good();
        let log = [(10, 20, 1), (12, 30, 0), (14, 31, 1), (16, 50, 0)];
        let log = log.map(|(index, at, devices)| Present { index, at: at * SECOND, devices });
        scene.facts.presence.insert("v".into(), log.to_vec());
        let seen = [(5_000, 0, 5), (20_100, 1, 10), (53_100, 0, 17)];
        let seen = seen.map(|(ms, devices, version)| Seen { at: ms * 1_000_000, devices, version });
        let watching = Watching { user: "v".into(), since: 4 * SECOND, until: None, seen: seen.to_vec() };
        scene.book.clients[1].watches.push(watching);
        scene
    }

    fn late(scene: &Scene, faults: &[FaultSpan]) -> Vec<String> {
        let late = check_soon(&scene.facts, &scene.book, faults, 100 * SECOND);
        late.into_iter().map(|violation| violation.text).collect()
    }

    #[test]
    fn a_good_one() {
        assert_eq!(good().broken_by(check), Vec::<String>::new());
        assert_eq!(missing(&good().history()), Vec::<String>::new());
        assert_eq!(late(&good(), &[]), Vec::<String>::new());
    }

    #[test]
    fn what_is_told_is_what_the_log_says() {
        let mut scene = good();
        scene.book.clients[1].watches[0].seen[1].devices = 2;
        found(&scene.broken_by(check), "has 2 devices at 10, and the log says 1");
    }

    #[test]
    fn versions_go_on() {
        let mut scene = good();
        scene.book.clients[1].watches[0].seen[2].version = 9;
        found(&scene.broken_by(check), "is as at 9, after 10");
    }

    #[test]
    fn a_short_absence_is_not_told() {
        let mut scene = good();
        let away = Seen { at: 30_200_000_000, devices: 0, version: 12 };
        scene.book.clients[1].watches[0].seen.insert(2, away);
        found(&scene.broken_by(check), "has 0 devices and not 1, too soon");
        scene.book.clients[1].sessions[0].ended_at = Some(25 * SECOND);
        assert_eq!(scene.broken_by(check), Vec::<String>::new(), "on a new session it is told how it is");
    }

    #[test]
    fn who_is_told_nothing_in_the_end() {
        let mut scene = good();
        scene.book.clients[1].watches[0].seen.pop();
        found(&missing(&scene.history()), "was told Some(1) devices of v, and there are 0");
        scene.book.clients[1].watches[0].until = Some(60 * SECOND);
        assert_eq!(missing(&scene.history()), Vec::<String>::new());
    }

    #[test]
    fn who_goes_with_a_node_is_told_while_it_is_down() {
        let mut scene = good();
        scene.book.clients[1].watches[0].seen[2].at += SECOND;
        let death = |n: usize| {
            let (kind, nodes) = ("kill".to_owned(), vec![format!("n{n}")]);
            [FaultSpan { kind, nodes, from: 49 * SECOND, until: 60 * SECOND }]
        };
        found(&late(&scene, &death(1)), "was not told within");
        assert_eq!(late(&scene, &death(0)), Vec::<String>::new(), "the watcher's own node");
        let next = FaultSpan { from: 51 * SECOND, ..death(1)[0].clone() };
        assert_eq!(late(&scene, &[next]), Vec::<String>::new(), "another death may come between");
    }

    #[test]
    fn late_news() {
        for n in [1, 2] {
            let mut scene = good();
            scene.book.clients[1].watches[0].seen[n].at += SECOND;
            found(&late(&scene, &[]), "was not told within");
            let fault = |kind: &str, until: u64| {
                let (kind, nodes) = (kind.into(), vec!["n0".to_owned()]);
                [FaultSpan { kind, nodes, from: 2 * SECOND, until: until * SECOND }]
            };
            for fault in [fault("kill", 45), fault("forget", 3)] {
                assert_eq!(late(&scene, &fault), Vec::<String>::new(), "only what happens while all is well counts");
            }
            found(&late(&scene, &fault("kill", 3)), "was not told within");
            scene.book.clients[1].slow = true;
            assert_eq!(late(&scene, &[]), Vec::<String>::new());
        }
    }
}
