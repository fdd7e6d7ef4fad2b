//! Watches a run with the oracles, and judges it at its end.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use cluster::id::NodeId;
use madsim::runtime::Handle;
use serde_json::json;

use crate::ledger::Ledger;
use crate::nemesis::{fault_spans, observe};
use crate::oracle::{self, Death, History, Journal, Reference, Rest, Trail, Violation, harness, liveness, safety};
use crate::plan::Plan;
use crate::slo::Histogram;
use crate::time;
use crate::trace::Recorded;
use crate::workload::{Scraper, is_tight};
use crate::world::{World, process_name};

/// How often replicas are compared.
const COMPARE: Duration = Duration::from_millis(500);
/// Violations of one run that are kept; the first ones say most.
const MOST: usize = 20;

/// What came of a run.
pub struct Verdict {
    /// What was broken.
    pub violations: Vec<Violation>,
    /// How long lone crashes of processes were unknown, in ns.
    pub stale: Histogram,
}

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
    /// What has no room waits, so nothing need come soon.
    tiny: bool,
    inflight: usize,
    /// Machines by the nodes that ever ran on them.
    machines: Vec<(NodeId, usize)>,
    /// Term and leadership of each machine's node, as seen last.
    roles: BTreeMap<usize, (u64, bool)>,
    compared_at: u64,
    /// What nodes said of some messages.
    trails: Vec<Trail>,
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
            tiny: plan.tiny,
            inflight: plan.limits.inflight as usize,
            machines: Vec::new(),
            roles: BTreeMap::new(),
            compared_at: 0,
            trails: Vec::new(),
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
        let mut missing = observe::unmended(&self.world);
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
        self.violations.extend(oracle::check_loss(self.reference.facts(), &book));
    }

    /// Nodes were asked after some messages.
    pub fn traced(&mut self, trails: Vec<Trail>) {
        self.trails = trails;
    }

    fn history<'a>(&'a self, book: &'a crate::ledger::Book) -> History<'a> {
        History {
            book,
            facts: self.reference.facts(),
            tight: self.tight,
            inflight: self.inflight,
            machines: &self.machines,
        }
    }

    /// What a fault left behind that was to end with it.
    pub fn unhealed(&mut self) {
        self.violations
            .extend(self.world.unhealed().into_iter().map(|what| harness(format!("after all faults {what}"))));
    }

    /// How long deaths of processes were unknown, of those that the promise is made for.
    fn stale(&self) -> Vec<(Death, u64)> {
        let (events, now) = (self.world.trace().recorded(), time::now());
        let kills = events.iter().filter(|event| event.event == "kill" && event.of["power"] == false);
        let machine = |event: &Recorded| event.of["node"].as_str().unwrap_or_default().to_owned();
        let deaths: Vec<_> = kills.map(|event| Death { at: event.at, machine: machine(event) }).collect();
        let nodes: Vec<_> =
            self.machines.iter().map(|(node, n)| (*node, self.world.machine(*n).name.clone())).collect();
        let generations = &self.reference.facts().generations;
        oracle::measure_stale(&deaths, generations, &nodes, &fault_spans(&events, now), now)
    }

    /// Everything that was broken.
    pub fn verdict(mut self) -> Verdict {
        self.look();
        self.reference.advance(u64::MAX);
        self.violations.extend(self.reference.take_broken());
        let (judged, committed) = (self.reference.applied(), self.journal.committed());
        if judged != committed {
            let text = format!("the log was judged up to {judged}, and is committed up to {committed}");
            self.violations.push(harness(text));
        }
        let measured = self.stale();
        self.violations.extend(oracle::check_stale(&measured));
        let mut stale = Histogram::default();
        measured.iter().for_each(|(_, took)| stale.add(*took));
        let book = self.ledger.book();
        let mut broken = oracle::check(&self.history(&book));
        let processes = self.scraper.processes();
        let now = time::now();
        let faults = fault_spans(&self.world.trace().recorded(), now);
        broken.extend(oracle::check_strangers(&book, &faults));
        if !self.tiny {
            broken.extend(oracle::check_watches_soon(self.reference.facts(), &book, &faults, now));
        }
        broken.extend(oracle::check_metrics(self.reference.facts(), &book, &processes));
        broken.extend(oracle::check_trails(self.reference.facts(), &book, &self.trails));
        drop(book);
        broken.extend(oracle::check_traces(&self.world.spans().lock()));
        broken.extend(self.ledger.complaints());
        broken.extend(self.world.violations().into_iter().map(safety));
        self.violations.extend(broken);
        // What is said once says it all.
        let mut said = HashSet::new();
        self.violations.retain(|violation| said.insert(violation.text.clone()));
        self.violations.truncate(MOST);
        Verdict { violations: self.violations, stale }
    }
}
