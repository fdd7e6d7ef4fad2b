//! Watches a run with the oracles, and judges it at its end.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use cluster::id::NodeId;
use madsim::runtime::Handle;
use serde_json::json;

use crate::ledger::Ledger;
use crate::nemesis::operator;
use crate::oracle::{self, History, Journal, Life, Reference, Rest, Violation, liveness, safety};
use crate::plan::Plan;
use crate::time;
use crate::workload::{Scraper, is_tight};
use crate::world::{World, process_name};

/// How often replicas are compared.
const COMPARE: Duration = Duration::from_millis(500);
/// Violations of one run that are kept; the first ones say most.
const MOST: usize = 20;

/// See the module.
pub struct Judge {
    world: World,
    ledger: Ledger,
    journal: Journal,
    scraper: Scraper,
    reference: Reference,
    violations: Vec<Violation>,
    /// Inboxes are so small that gaps and refusals are to be expected.
    tight: bool,
    /// Machines by the nodes that ever ran on them.
    machines: Vec<(NodeId, usize)>,
    /// Term and leadership of each machine's node, as seen last.
    roles: BTreeMap<usize, (u64, bool)>,
    compared_at: u64,
}

impl Judge {
    /// Nothing seen yet.
    pub fn new(world: World, ledger: Ledger, journal: Journal, scraper: Scraper, plan: &Plan) -> Self {
        Self {
            world,
            ledger,
            journal,
            scraper,
            reference: Reference::default(),
            violations: Vec::new(),
            tight: is_tight(&plan.limits),
            machines: Vec::new(),
            roles: BTreeMap::new(),
            compared_at: 0,
        }
    }

    /// Looks at what changed: the log, the replicas, who leads.
    pub fn look(&mut self) {
        self.reference.committed(self.journal.take_committed());
        self.violations.extend(self.journal.take_broken());
        self.note_nodes();
        if time::now() >= self.compared_at + time::nanos(COMPARE) {
            self.compared_at = time::now();
            self.compare();
            // The runtime below lets go of tasks that have ended when it counts them, and only then.
            Handle::current().metrics().num_tasks();
        }
    }

    /// Compares each replica that moved with the log's replay.
    fn compare(&mut self) {
        let mut clusters = self.world.clusters();
        clusters.sort_by_key(|(_, cluster)| cluster.applied());
        for (node, cluster) in clusters {
            if !self.reference.has_seen(&node, cluster.applied()) {
                let (index, hash) = cluster.state_hash();
                self.violations.extend(self.reference.compare(&node, index, hash));
            }
        }
        self.violations.extend(self.reference.take_broken());
    }

    fn note_nodes(&mut self) {
        for n in 0..self.world.len() {
            let Some((_, cluster)) = self.world.node(n) else { continue };
            let node = cluster.node_id();
            if !self.machines.contains(&(node, n)) {
                self.machines.push((node, n));
            }
            let (term, leads) = cluster.leadership();
            if self.roles.insert(n, (term, leads)) != Some((term, leads)) {
                let name = &self.world.machine(n).name;
                self.world.trace().lazy("role", || json!({ "node": name, "term": term, "leads": leads }));
            }
        }
    }

    /// Something that did not happen in time.
    pub fn late(&mut self, what: impl Iterator<Item = String>) {
        self.violations.extend(what.take(MOST).map(|what| liveness(what).at(time::now())));
    }

    /// What is still missing for the cluster to have done its work.
    pub fn unsettled(&mut self) -> Vec<String> {
        let mut missing = operator::unmended(&self.world);
        if missing.is_empty() {
            self.compare();
            let live = self.reference.live();
            let book = self.ledger.book();
            missing = oracle::missing(&self.history(&book), &live);
        }
        missing
    }

    /// Everything has come to rest: what is left?
    pub fn at_rest(&mut self) {
        let tasks = Handle::current().metrics().num_tasks_by_node();
        let book = self.ledger.book();
        let sessions: Vec<_> = book.clients.iter().filter_map(|client| client.session()).collect();
        let nodes = (0..self.world.len()).filter_map(|n| {
            let name = &self.world.machine(n).name;
            let connections = sessions.iter().filter(|session| session.node == n).count();
            let (_, since, _) = self.world.process(n)?;
            Some((name.clone(), *tasks.get(&process_name(name, since))?, connections))
        });
        let clients = book.clients.iter().filter(|client| client.is_running()).count();
        let rest = Rest { nodes: nodes.collect(), streams: self.world.network().streams(), clients };
        self.world.trace().lazy("rest", || json!({ "tasks": rest.nodes, "streams": rest.streams, "clients": clients }));
        self.violations.extend(oracle::check_rest(&rest));
    }

    fn history<'a>(&'a self, book: &'a crate::ledger::Book) -> History<'a> {
        History { book, facts: self.reference.facts(), tight: self.tight, machines: &self.machines }
    }

    /// Everything that was broken.
    pub fn verdict(mut self) -> Vec<Violation> {
        self.look();
        self.reference.advance(u64::MAX);
        self.violations.extend(self.reference.take_broken());
        let book = self.ledger.book();
        let mut broken = oracle::check(&self.history(&book));
        let lives: Vec<Life> = self.scraper.lives();
        broken.extend(oracle::check_metrics(self.reference.facts(), &book, &lives));
        drop(book);
        broken.extend(self.ledger.complaints());
        broken.extend(self.world.violations().into_iter().map(safety));
        self.violations.extend(broken);
        // What is said once says it all.
        let mut said = HashSet::new();
        self.violations.retain(|violation| said.insert(violation.text.clone()));
        self.violations.truncate(MOST);
        self.violations
    }
}
