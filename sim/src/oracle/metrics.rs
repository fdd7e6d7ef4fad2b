//! G8: what nodes count is what happened.
//!
//! A process counts from its start, and is scraped from outside now and then; what it counted after
//! the last scrape died with it. So each life of a node has a range: at least what the log entries
//! say that it had applied at its last scrape by its own word, at most what was committed then.
//! A replica that was sent a checkpoint did not see the entries in it, and has no lower bound.

use std::collections::BTreeMap;

use cluster::id::NodeId;

use super::facts::{Counted, Facts, Stored, Timed};
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
pub struct Life {
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
const ESTABLISHED: &str = "im_gateway_connections_established_total";
const CLOSED: &str = "im_gateway_connections_closed_total";
const ACTIVE: &str = "im_gateway_active_connections";

/// Compares all lives with the log and the clients' book.
pub fn check(facts: &Facts, book: &Book, lives: &[Life]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for life in lives {
        let mut wrong = |text: String| {
            let (n, at) = (life.machine, life.scrape.at);
            broken.push(safety(format!("G8: n{n}, started at {:.1} s: {text}", life.since as f64 / 1e9)).at(at));
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
            let (low, high) = range(facts, life, counted);
            let said = life.scrape.sum(name);
            if said < low || said > high {
                wrong(format!("{name} is {said}, and {low} to {high} happened"));
            }
        }
        let (low, high) = timed(facts, life);
        let said = life.scrape.sum(TIMED) + life.scrape.sum(LATE);
        if said < low || said > high {
            wrong(format!("the ways of {said} messages are measured, and {low} to {high} may be"));
        }
        let (established, closed) = (life.scrape.sum(ESTABLISHED), life.scrape.sum(CLOSED));
        let active = life.scrape.sum(ACTIVE);
        if established != closed + active {
            wrong(format!("{established} connections established, {closed} closed, {active} open"));
        }
        // A slow application learns of its sessions late.
        let prompt = book.clients.iter().filter(|client| !client.slow);
        let sessions = prompt.flat_map(|client| &client.sessions);
        let sessions = sessions.filter(|session| {
            // By its place in the log: the news of an earlier process's session may come late.
            let ours = session.node == life.machine && super::facts::index(session.epoch) > up(facts, life);
            ours && session.at < life.scrape.asked_at
        });
        let sessions = sessions.count() as u64;
        if established < sessions {
            wrong(format!("{established} connections established, and clients had {sessions} sessions"));
        }
    }
    broken
}

/// The entry by which the process came up.
fn up(facts: &Facts, life: &Life) -> u64 {
    let ours = |up: &&Counted| up.node == life.node && up.index > life.committed;
    facts.ups.iter().find(ours).map_or(u64::MAX, |up| up.index)
}

fn range(facts: &Facts, life: &Life, counted: &[Counted]) -> (u64, u64) {
    let applied = life.scrape.get(APPLIED).unwrap_or(0);
    let up = up(facts, life);
    // What was on its way when it was started is another process's, and may be counted by nobody.
    let ours = counted.iter().filter(|counted| counted.node == life.node && counted.index > life.committed);
    let (mut low, mut high) = (0, 0);
    for counted in ours {
        if counted.index > up && counted.index <= applied && !life.installed {
            low += counted.count;
        }
        if counted.index <= life.scrape.committed {
            high += counted.count;
        }
    }
    (low, high)
}

/// Of how many messages the process must have measured the way: of those that it stored itself and the log says to be
/// acknowledged; and may have, because it is told earlier: of all that it stored itself.
fn timed(facts: &Facts, life: &Life) -> (u64, u64) {
    let applied = life.scrape.get(APPLIED).unwrap_or(0);
    let up = up(facts, life);
    let must = |timed: &&Timed| timed.node == life.node && timed.sent > up && timed.index <= applied;
    let may = |stored: &&Stored| {
        let index = super::facts::index(stored.pos);
        stored.node == life.node && index > life.committed && index <= life.scrape.committed
    };
    let low = facts.timed.iter().filter(must).count() as u64;
    (if life.installed { 0 } else { low }, facts.stored.iter().filter(may).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NODE, Scene, found, pos};
    use super::*;

    fn life(lines: &str) -> Life {
        let values = Scrape::parse(lines);
        let scrape = Scrape { asked_at: 90, at: 100, committed: 10, values };
        Life { machine: 0, node: NODE, since: 0, committed: 2, installed: false, scrape }
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
            check(&facts, &Book::default(), &[life(&text)]).into_iter().map(|violation| violation.text).collect()
        };
        for (measured, late) in [(1, 0), (0, 1), (1, 1)] {
            assert_eq!(broken(measured, late), Vec::<String>::new());
        }
        for (measured, late) in [(0, 0), (2, 1)] {
            found(&broken(measured, late), "messages are measured, and 1 to 2 may be");
        }
    }

    fn check_life(life: Life) -> Vec<String> {
        check(&facts(), &Book::default(), &[life]).into_iter().map(|violation| violation.text).collect()
    }

    #[test]
    fn within_the_range() {
        for said in [3, 6] {
            let text = format!(
                "# TYPE x\n{DELIVERED}{{node=\"n\",type=\"direct\"}} {said}\nim_gateway_raft_index{{node=\"n\",kind=\"applied\"}} 6\n"
            );
            assert_eq!(check_life(life(&text)), Vec::<String>::new());
        }
    }

    #[test]
    fn too_few_or_too_many() {
        for said in [0, 9] {
            let text = format!(
                "{DELIVERED}{{node=\"n\",type=\"direct\"}} {said}\nim_gateway_raft_index{{kind=\"applied\"}} 6\n"
            );
            found(&check_life(life(&text)), &format!("{DELIVERED} is {said}, and 3 to 6 happened"));
        }
    }

    #[test]
    fn connections_add_up() {
        let counted = |active| {
            format!(
                "{ESTABLISHED} 5\n{CLOSED}{{reason=\"a\"}} 2\n{CLOSED}{{reason=\"b\"}} 1\n{ACTIVE} {active}\n{DELIVERED} 3\n{APPLIED} 6\n"
            )
        };
        assert_eq!(check_life(life(&counted(2))), Vec::<String>::new());
        found(&check_life(life(&counted(1))), "5 connections established, 3 closed, 1 open");
    }

    #[test]
    fn sessions_that_were_not_counted() {
        let mut scene = super::super::testing::Scene::good();
        for (client, entry) in scene.book.clients.iter_mut().zip([4, 5]) {
            client.sessions[0].epoch = super::super::testing::pos(entry);
        }
        let broken = check(&facts(), &scene.book, &[life(&format!("{DELIVERED} 3\n{APPLIED} 6\n"))]);
        let texts: Vec<_> = broken.into_iter().map(|violation| violation.text).collect();
        found(&texts, "clients had 2 sessions");
    }
}
