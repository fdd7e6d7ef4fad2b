//! G8: what nodes count is what happened.
//!
//! A process counts from its start, and is scraped from outside now and then; what it counted after
//! the last scrape died with it. So each process of a node has a range: at least what the log entries
//! say that it had applied at its last scrape by its own word, at most what was committed then.
//! A replica that was sent a checkpoint did not see the entries in it, and has no lower bound.

use std::collections::BTreeMap;

use cluster::id::NodeId;

use super::facts::{Counted, Facts, Level, Stored, Timed};
use super::{Violation, safety};
use crate::ledger::Book;

/// One answer of `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    /// When it was asked for, and when it was there, in ns.
    pub asked_at: u64,
    /// See above.
    pub at: u64,
    /// Index up to which the log was committed when the answer was there.
    pub committed: u64,
    /// Values by name and labels, without `node`.
    pub values: BTreeMap<String, f64>,
}

impl Scrape {
    /// Reads Prometheus' text format.
    pub fn parse(text: &str) -> BTreeMap<String, f64> {
        let mut values = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse() else { continue };
            values.insert(without_node(name), value);
        }
        values
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.values.get(name).map(|value| *value as u64)
    }

    /// The sum over all labels.
    fn sum(&self, name: &str) -> u64 {
        let of = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        self.values.iter().filter(|(key, _)| of(key)).map(|(_, value)| *value as u64).sum()
    }
}

fn without_node(name: &str) -> String {
    let Some((metric, labels)) = name.split_once('{') else { return name.to_owned() };
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.starts_with("node="));
    let labels: Vec<_> = labels.collect();
    if labels.is_empty() { metric.to_owned() } else { format!("{metric}{{{}}}", labels.join(",")) }
}

/// One process of a node.
#[derive(Debug, Clone)]
pub struct ScrapedProcess {
    /// On which machine.
    pub machine: usize,
    /// As which node.
    pub node: NodeId,
    /// When it was started, in ns.
    pub since: u64,
    /// Index up to which the log was committed when it was started.
    pub committed: u64,
    /// It was sent a checkpoint.
    pub installed: bool,
    /// The last answer that it gave.
    pub scrape: Scrape,
}

const DELIVERED: &str = "im_gateway_messages_delivered_total";
const TIMED: &str = "im_gateway_message_delivery_latency_seconds_count";
const LATE: &str = "im_gateway_late_deliveries_total";
const DUPLICATES: &str = "im_gateway_message_duplication_total";
const REFUSED: &str = "im_gateway_messages_failed_total{reason=\"inbox_full\",type=\"direct\"}";
const LAPSED: &str = "im_gateway_messages_failed_total{reason=\"inbox_limit\",type=\"direct\"}";
const EXPIRED: &str = "im_gateway_messages_failed_total{reason=\"expired\",type=\"direct\"}";
const GROUP_LAPSED: &str = "im_gateway_messages_failed_total{reason=\"inbox_limit\",type=\"group\"}";
const GROUP_EXPIRED: &str = "im_gateway_messages_failed_total{reason=\"expired\",type=\"group\"}";
const APPLIED: &str = "im_gateway_raft_index{kind=\"applied\"}";
const WAITING: &str = "im_service_offline_queue_size";
const SESSIONS: &str = "im_gateway_sessions{of=\"cluster\"}";
const ESTABLISHED: &str = "im_gateway_connections_established_total";
const CLOSED: &str = "im_gateway_connections_closed_total";
const ACTIVE: &str = "im_gateway_active_connections";

/// Compares all processes with the log and the clients' book.
pub fn check(facts: &Facts, book: &Book, processes: &[ScrapedProcess]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for process in processes {
        let mut wrong = |text: String| {
            let (n, at) = (process.machine, process.scrape.at);
            broken.push(safety(format!("G8: n{n}, started at {:.1} s: {text}", process.since as f64 / 1e9)).at(at));
        };
        for (name, counted) in [
            (DELIVERED, &facts.acked),
            (REFUSED, &facts.refused),
            (DUPLICATES, &facts.duplicates),
            (LAPSED, &facts.lapsed),
            (EXPIRED, &facts.expired),
            (GROUP_LAPSED, &facts.group_lapsed),
            (GROUP_EXPIRED, &facts.group_expired),
        ] {
            let (low, high) = range(facts, process, counted);
            let said = process.scrape.sum(name);
            if said < low || said > high {
                wrong(format!("{name} is {said}, and {low} to {high} happened"));
            }
        }
        let (low, high) = timed(facts, process);
        let said = process.scrape.sum(TIMED) + process.scrape.sum(LATE);
        if said < low || said > high {
            wrong(format!("the ways of {said} messages are measured, and {low} to {high} may be"));
        }
        for (name, of) in [(WAITING, messages as fn(&Level) -> u64), (SESSIONS, sessions)] {
            let told = process.scrape.get(name);
            if let Some(said) = told.filter(|said| !levels(facts, process).any(|level| of(&level) == *said)) {
                wrong(format!("{name} is {said}, which it was at no entry that it may have applied last"));
            }
        }
        let (established, closed) = (process.scrape.sum(ESTABLISHED), process.scrape.sum(CLOSED));
        let active = process.scrape.sum(ACTIVE);
        if established != closed + active {
            wrong(format!("{established} connections established, {closed} closed, {active} open"));
        }
        // A slow application learns of its sessions late.
        let prompt = book.clients.iter().filter(|client| !client.slow);
        let sessions = prompt.flat_map(|client| &client.sessions);
        let sessions = sessions.filter(|session| {
            // By its place in the log: the news of an earlier process's session may come late.
            let ours = session.node == process.machine && super::facts::index(session.epoch) > up(facts, process);
            ours && session.at < process.scrape.asked_at
        });
        let sessions = sessions.count() as u64;
        if established < sessions {
            wrong(format!("{established} connections established, and clients had {sessions} sessions"));
        }
    }
    broken
}

/// The entry by which the process came up.
fn up(facts: &Facts, process: &ScrapedProcess) -> u64 {
    facts.up(process.node, process.committed)
}

fn messages(level: &Level) -> u64 {
    level.messages
}

fn sessions(level: &Level) -> u64 {
    level.sessions
}

/// What the state held at the entries that the process may have applied last when it answered.
fn levels<'a>(facts: &'a Facts, process: &ScrapedProcess) -> impl Iterator<Item = Level> + 'a {
    let (applied, committed) = (process.scrape.get(APPLIED).unwrap_or(0), process.scrape.committed);
    let next = facts.levels.partition_point(|level| level.index <= applied);
    let first = next.checked_sub(1).map_or(Level { index: 0, messages: 0, sessions: 0 }, |last| facts.levels[last]);
    let later = facts.levels[next..].iter().copied().take_while(move |level| level.index <= committed);
    std::iter::once(first).chain(later)
}

fn range(facts: &Facts, process: &ScrapedProcess, counted: &[Counted]) -> (u64, u64) {
    let applied = process.scrape.get(APPLIED).unwrap_or(0);
    let up = up(facts, process);
    // What was on its way when it was started is another process's, and may be counted by nobody.
    let ours = counted.iter().filter(|counted| counted.node == process.node && counted.index > process.committed);
    let (mut low, mut high) = (0, 0);
    for counted in ours {
        if counted.index > up && counted.index <= applied && !process.installed {
            low += counted.count;
        }
        if counted.index <= process.scrape.committed {
            high += counted.count;
        }
    }
    (low, high)
}

/// Of how many messages the process must have measured the way: of those that it stored itself and the log says to be
/// acknowledged; and may have, because it is told earlier: of all that it stored itself.
fn timed(facts: &Facts, process: &ScrapedProcess) -> (u64, u64) {
    let applied = process.scrape.get(APPLIED).unwrap_or(0);
    let up = up(facts, process);
    let must = |timed: &&Timed| timed.node == process.node && timed.sent > up && timed.index <= applied;
    let may = |stored: &&Stored| {
        let index = super::facts::index(stored.pos);
        stored.node == process.node && index > process.committed && index <= process.scrape.committed
    };
    let low = facts.timed.iter().filter(must).count() as u64;
    (if process.installed { 0 } else { low }, facts.stored.iter().filter(may).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NODE, Scene, found, pos};
    use super::*;

    fn process(lines: &str) -> ScrapedProcess {
        let values = Scrape::parse(lines);
        let scrape = Scrape { asked_at: 90, at: 100, committed: 10, values };
        ScrapedProcess { machine: 0, node: NODE, since: 0, committed: 2, installed: false, scrape }
    }

    fn facts() -> Facts {
        let acked = |index| Counted { index, node: NODE, count: 3 };
        let up = Counted { index: 3, node: NODE, count: 1 };
        Facts { ups: vec![up], acked: vec![acked(1), acked(5), acked(8), acked(11)], ..Facts::default() }
    }

    #[test]
    fn measured_too_seldom_or_too_often() {
        let timed = |sent, index| Timed { sent, index, node: NODE };
        let stored = |index, node| Stored { pos: pos(index), node, ..Scene::good().facts.stored[0].clone() };
        // Of another process, by its place, or of another node; not yet applied; not yet committed.
        let other = Timed { node: NodeId(8), ..timed(5, 6) };
        let timed = vec![timed(1, 5), timed(5, 6), timed(5, 8), timed(11, 12), other];
        let stored = vec![stored(1, NODE), stored(5, NODE), stored(6, NODE), stored(5, NodeId(8)), stored(11, NODE)];
        let facts = Facts { timed, stored, ..facts() };
        let broken = |measured, late| -> Vec<String> {
            let text = format!(
                "{TIMED}{{type=\"direct\"}} {measured}\n{LATE} {late}\n{DELIVERED} 3\n\
                 im_gateway_raft_index{{kind=\"applied\"}} 6\n"
            );
            check(&facts, &Book::default(), &[process(&text)]).into_iter().map(|violation| violation.text).collect()
        };
        for (measured, late) in [(1, 0), (0, 1), (1, 1)] {
            assert_eq!(broken(measured, late), Vec::<String>::new());
        }
        for (measured, late) in [(0, 0), (2, 1)] {
            found(&broken(measured, late), "messages are measured, and 1 to 2 may be");
        }
    }

    fn check_process(process: ScrapedProcess) -> Vec<String> {
        check(&facts(), &Book::default(), &[process]).into_iter().map(|violation| violation.text).collect()
    }

    #[test]
    fn within_the_range() {
        for said in [3, 6] {
            let text = format!(
                "# TYPE x\n{DELIVERED}{{node=\"n\",type=\"direct\"}} {said}\nim_gateway_raft_index{{node=\"n\",kind=\"applied\"}} 6\n"
            );
            assert_eq!(check_process(process(&text)), Vec::<String>::new());
        }
    }

    #[test]
    fn too_few_or_too_many() {
        for said in [0, 9] {
            let text = format!(
                "{DELIVERED}{{node=\"n\",type=\"direct\"}} {said}\nim_gateway_raft_index{{kind=\"applied\"}} 6\n"
            );
            found(&check_process(process(&text)), &format!("{DELIVERED} is {said}, and 3 to 6 happened"));
        }
    }

    #[test]
    fn what_the_state_holds() {
        let level = |index, messages| Level { index, messages, sessions: 2 };
        let levels = vec![level(3, 1), level(4, 7), level(6, 3), level(9, 9), level(11, 4)];
        let facts = Facts { levels, ..facts() };
        let broken = |waiting| {
            let text = format!("{DELIVERED} 3\n{APPLIED} 5\n{WAITING} {waiting}\n{SESSIONS} 2\n");
            let broken = check(&facts, &Book::default(), &[process(&text)]);
            broken.into_iter().map(|violation| violation.text).collect::<Vec<_>>()
        };
        for may in [7, 3, 9] {
            assert_eq!(broken(may), Vec::<String>::new());
        }
        for not in [1, 4, 5] {
            found(&broken(not), "im_service_offline_queue_size is");
        }
    }

    #[test]
    fn connections_add_up() {
        let counted = |active| {
            format!(
                "{ESTABLISHED} 5\n{CLOSED}{{reason=\"a\"}} 2\n{CLOSED}{{reason=\"b\"}} 1\n{ACTIVE} {active}\n{DELIVERED} 3\n{APPLIED} 6\n"
            )
        };
        assert_eq!(check_process(process(&counted(2))), Vec::<String>::new());
        found(&check_process(process(&counted(1))), "5 connections established, 3 closed, 1 open");
    }

    #[test]
    fn sessions_that_were_not_counted() {
        let mut scene = super::super::testing::Scene::good();
        for (client, entry) in scene.book.clients.iter_mut().zip([4, 5]) {
            client.sessions[0].epoch = super::super::testing::pos(entry);
        }
        let broken = check(&facts(), &scene.book, &[process(&format!("{DELIVERED} 3\n{APPLIED} 6\n"))]);
        let texts: Vec<_> = broken.into_iter().map(|violation| violation.text).collect();
        found(&texts, "clients had 2 sessions");
    }
}
