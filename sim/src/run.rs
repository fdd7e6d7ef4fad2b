//! One run: a cluster, its clients, its plan's faults, and the judgement.

use std::time::Duration;

use im_gateway::client::Fate;
use serde_json::json;

use crate::ledger::Ledger;
use crate::nemesis::{self, operator};
use crate::oracle::{self, Kind, Replicas, Violation, liveness, safety};
use crate::plan::Plan;
use crate::time;
use crate::trace::Trace;
use crate::workload::Workload;
use crate::world::World;

/// Virtual time for a fresh cluster to serve its first clients.
const START: Duration = Duration::from_secs(30);
/// Virtual time for everything to be answered and delivered once faults are over.
const SETTLE: Duration = Duration::from_secs(60);
/// How often oracles look.
const LOOK: Duration = Duration::from_millis(100);
/// Violations of one run that are kept; the first ones say most.
const MOST: usize = 20;

/// What came of a run.
pub struct Outcome {
    /// What was broken.
    pub violations: Vec<Violation>,
    /// Messages that were `ok`'d, and all receptions of messages.
    pub stored: usize,
    pub received: usize,
    /// Faults that happened.
    pub faults: usize,
    /// Virtual time.
    pub took: Duration,
}

/// Makes the run of a plan, within its runtime.
pub async fn run(plan: Plan, trace: Trace) -> Outcome {
    time::start();
    trace.event("plan", plan.to_json());
    let world = World::new(&plan, trace.clone());
    let ledger = Ledger::new(trace.clone());
    let mut run = Run { world, ledger, replicas: Replicas::default(), violations: Vec::new() };
    run.whole(&plan).await;
    let book = run.ledger.book();
    run.violations.extend(oracle::check(&book));
    run.violations.extend(run.world.violations().into_iter().map(safety));
    run.violations.truncate(MOST);
    let stored = book.sent.values().filter(|sent| matches!(sent.fate, Some(Fate::Stored(_)))).count();
    let received = book.clients.iter().map(|client| client.received.len()).sum();
    if run.violations.is_empty() && (stored == 0 || received == 0) {
        run.violations.push(Violation { kind: Kind::Harness, text: "vacuous: nothing was sent and received".into() });
    }
    for violation in &run.violations {
        trace.event("violation", json!({ "kind": format!("{:?}", violation.kind), "text": violation.text }));
    }
    trace.event("end", json!({ "stored": stored, "received": received, "violations": run.violations.len() }));
    let took = Duration::from_nanos(time::now());
    Outcome { violations: run.violations.clone(), stored, received, faults: plan.faults.len(), took }
}

struct Run {
    world: World,
    ledger: Ledger,
    replicas: Replicas,
    violations: Vec<Violation>,
}

impl Run {
    async fn whole(&mut self, plan: &Plan) {
        if let Some(ends) = self.world.ends() {
            tokio::spawn(operator::supervise(self.world.clone(), ends));
        }
        (0..plan.nodes).for_each(|n| self.world.boot(n));
        let workload = Workload::start(self.world.clone(), self.ledger.clone(), plan);
        if !self.until(START, Self::unconnected).await {
            return;
        }
        let course = tokio::spawn({
            let (world, plan) = (self.world.clone(), plan.clone());
            async move {
                tokio::join!(workload.chat(plan.traffic()), nemesis::run(&world, &plan));
                workload
            }
        });
        while !course.is_finished() {
            self.look();
            time::sleep(LOOK).await;
        }
        self.world.trace().event("quiet", json!({}));
        self.until(SETTLE, Self::unsettled).await;
    }

    /// Looks until nothing is said to be missing; what still is after `patience` breaks a promise.
    async fn until(&mut self, patience: Duration, missing: fn(&Self) -> Vec<String>) -> bool {
        let deadline = time::now() + time::nanos(patience);
        loop {
            self.look();
            let missing = missing(self);
            if missing.is_empty() {
                return true;
            }
            if time::now() >= deadline {
                let late = missing.into_iter().map(|what| liveness(format!("after {patience:?}: {what}")));
                self.violations.extend(late.take(MOST));
                return false;
            }
            time::sleep(LOOK).await;
        }
    }

    /// Compares the replicas that are at the same entry.
    fn look(&mut self) {
        for (node, cluster) in self.world.clusters() {
            let (index, hash) = cluster.state_hash();
            self.violations.extend(self.replicas.seen(&node, index, hash));
        }
    }

    fn unconnected(&self) -> Vec<String> {
        let book = self.ledger.book();
        let waiting = book.clients.iter().filter(|client| client.sessions.is_empty());
        waiting.map(|client| format!("{} has no session with the fresh cluster", client.device)).collect()
    }

    fn unsettled(&self) -> Vec<String> {
        let mut missing = oracle::missing(&self.ledger.book());
        missing.extend(operator::unmended(&self.world));
        missing
    }
}
