//! One run: a cluster, its clients, its plan's faults, and the judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use im_gateway::client::Fate;
use serde_json::json;

use crate::alerts::scrapes::{Keep, Sample};
use crate::coverage;
use crate::evidence;
use crate::judge::{Judge, Verdict};
use crate::ledger::{Book, Ledger};
use crate::nemesis::{self, FaultKind, fault_spans, operator};
use crate::oracle::{self, Journal, Violation, harness};
use crate::plan::Plan;
use crate::slo::{self, Slo};
use crate::summary::Summary;
use crate::time;
use crate::trace::{Recorded, Trace};
use crate::workload::{Prober, Scraper, Workload, trace_some};
use crate::world::World;

/// Virtual time for a fresh cluster to serve its first clients.
const START: Duration = Duration::from_secs(30);
/// Virtual time for everything to be answered and delivered once faults are over.
const SETTLE: Duration = Duration::from_secs(60);
/// Virtual time that operators may need to mend what faults left behind.
const MEND: Duration = Duration::from_secs(180);
/// How often metrics are scraped, availability is probed, and the judge looks, in a short run.
const SCRAPE: Duration = Duration::from_secs(5);
const PROBE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);
/// The same in a run of hours.
const LONG: Duration = Duration::from_secs(3_600);
const LONG_PERIOD: Duration = Duration::from_secs(15);
const LONG_LOOK: Duration = Duration::from_secs(1);

/// What came of a run.
pub struct Outcome {
    /// What was broken.
    pub violations: Vec<Violation>,
    /// For whoever adds up many.
    pub summary: Summary,
    /// When each message was sent and how long it took, in ns.
    pub latencies: Vec<(u64, u64)>,
    /// What was kept of the scrapes.
    pub samples: Vec<Sample>,
}

/// Makes the run of a plan, within its runtime.
pub async fn run(plan: Plan, trace: Trace, keep: Keep) -> Outcome {
    time::start();
    trace.event("plan", plan.to_json());
    let journal = Journal::default();
    let world = World::new(&plan, trace.clone(), journal.clone());
    let ledger = Ledger::new(world.client_addrs(), journal.clone(), trace.clone());
    let long = plan.traffic() >= LONG;
    let period = if long || plan.alerts.is_some() { LONG_PERIOD } else { SCRAPE };
    let scraper = Scraper::start(world.clone(), journal.clone(), period, keep);
    let judge = Judge::new(world.clone(), ledger.clone(), journal, scraper.clone(), &plan);
    let prober = Prober::new(world.clone(), ledger.clone(), plan.seed);
    let mut run = Run { world, ledger, judge, scraper, prober, long, traffic_ends: 0 };
    run.whole(&plan).await;
    let Verdict { mut violations, stale } = run.judge.verdict();
    let mut summary = summarize(&plan, &run.ledger.book(), &run.prober, &trace);
    if violations.is_empty() && (summary.stored == 0 || summary.received == 0) {
        violations.push(harness("vacuous: nothing was sent and received".into()));
    }
    summary.stale = stale;
    if plan.faults.is_empty() && !plan.tiny {
        violations.extend(oracle::check_calm(&summary.slo));
        if plan.admit_per_s > 0 {
            violations.extend(oracle::check_admission(&run.ledger.book(), plan.admit_per_s, run.traffic_ends));
        }
    }
    if let Some(most_ms) = plan.unnoticed_ms {
        violations.extend(oracle::check_unnoticed(&run.ledger.book(), most_ms));
    }
    let events = trace.recorded();
    violations.extend(unplayed(&plan, &events));
    violations.extend(evidence::check(hit(&plan, &events), &evidence::seen()));
    for violation in &violations {
        trace.event("violation", json!({ "kind": format!("{:?}", violation.kind), "text": violation.text }));
    }
    let (stored, received) = (summary.stored, summary.received);
    trace.event("end", json!({ "stored": stored, "received": received, "violations": violations.len() }));
    let latencies = slo::latencies(&run.ledger.book());
    Outcome { violations, summary, latencies, samples: run.scraper.samples() }
}

/// Faults that came into this phase, each with its number in the plan and what was told of it then.
fn told<'a>(events: &'a [Recorded], phase: &'a str) -> impl Iterator<Item = (usize, &'a Recorded)> {
    let told = events.iter().filter(move |event| event.event == "fault" && event.of["phase"] == phase);
    told.filter_map(|event| Some((event.of["id"].as_u64()? as usize, event)))
}

/// Faults of the plan of which nothing was heard, though traffic went on to its end; and those that were left out, if
/// the plan is kept for them.
fn unplayed(plan: &Plan, events: &[Recorded]) -> Vec<Violation> {
    let begun: BTreeSet<_> = told(events, "begin").map(|(id, _)| id).collect();
    let skipped: BTreeMap<_, _> = told(events, "skipped").collect();
    let silent = (0..plan.faults.len()).filter(|id| !begun.contains(id) && !skipped.contains_key(id)).count();
    let mut broken = Vec::new();
    if silent > 0 {
        broken.push(harness(format!("{silent} of {} faults were never played", plan.faults.len())));
    }
    for (id, event) in skipped.iter().filter(|_| plan.kept) {
        let Some(fault) = plan.faults.get(*id) else { continue };
        let (kind, why) = (fault.kind.name(), event.of["why"].as_str().unwrap_or_default());
        broken.push(harness(format!("the fault {kind} of {} at {} ms was left out: {why}", fault.target, fault.at_ms)));
    }
    broken
}

/// The kinds of faults that are over and had something to hit.
fn hit(plan: &Plan, events: &[Recorded]) -> impl Iterator<Item = FaultKind> {
    let hit = told(events, "end").filter(|(_, event)| event.of["why"].is_null());
    hit.filter_map(move |(id, _)| Some(plan.faults.get(id)?.kind))
}

fn summarize(plan: &Plan, book: &Book, prober: &Prober, trace: &Trace) -> Summary {
    let took = time::now();
    let events = trace.recorded();
    let spans = fault_spans(&events, took);
    let mut summary = Summary { seed: plan.seed, took, ..Summary::default() };
    summary.stored = book.all_sent().filter(|(_, sent)| matches!(sent.fate, Some(Fate::Stored(_)))).count();
    summary.received = book.clients.iter().map(|client| client.received.len()).sum();
    summary.first_fault = spans.iter().map(|span| span.from).min();
    for span in &spans {
        *summary.faults.entry(span.kind.clone()).or_default() += 1;
    }
    for (_, event) in told(&events, "skipped") {
        let kind = event.of["kind"].as_str().unwrap_or("?").to_owned();
        *summary.skipped.entry(kind).or_default() += 1;
    }
    summary.coverage = coverage::counts().into_iter().map(|(point, count)| (point.to_owned(), count)).collect();
    summary.slo = Slo::of(book, &prober.probes(), &spans);
    summary
}

struct Run {
    world: World,
    ledger: Ledger,
    judge: Judge,
    scraper: Scraper,
    prober: Prober,
    long: bool,
    /// When strangers are gone, in ns; 0 before any came.
    traffic_ends: u64,
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
        let (probe, look) = if self.long { (LONG_PERIOD, LONG_LOOK) } else { (PROBE, LOOK) };
        self.prober.start(probe);
        self.traffic_ends = time::now() + time::nanos(plan.traffic());
        let course = tokio::spawn({
            let (world, plan) = (self.world.clone(), plan.clone());
            async move {
                tokio::join!(workload.chat(plan.traffic()), nemesis::run(&world, &plan));
            }
        });
        let deadline = time::now() + time::nanos(plan.lasts() + MEND);
        while !course.is_finished() {
            if time::now() >= deadline {
                let late = format!("{MEND:?} after the last fault, the operator's work is not done");
                self.judge.late(std::iter::once(late));
                break;
            }
            self.judge.look();
            time::sleep(look).await;
        }
        self.world.trace().event("quiet", json!({}));
        if course.is_finished() {
            self.judge.unhealed();
        }
        if self.until(SETTLE, |run| run.judge.unsettled()).await {
            self.judge.at_rest();
            let trails = trace_some(&self.world, &self.ledger).await;
            self.judge.traced(trails);
        }
        for n in 0..self.world.len() {
            self.scraper.ask(n).await;
        }
    }

    /// Looks until nothing is said to be missing; what still is after `patience` breaks a promise.
    async fn until(&mut self, patience: Duration, missing: fn(&mut Self) -> Vec<String>) -> bool {
        let deadline = time::now() + time::nanos(patience);
        loop {
            self.judge.look();
            let missing = missing(self);
            if missing.is_empty() {
                return true;
            }
            if time::now() >= deadline {
                self.judge.late(missing.into_iter().map(|what| format!("after {patience:?}: {what}")));
                return false;
            }
            time::sleep(LOOK).await;
        }
    }

    fn unconnected(&mut self) -> Vec<String> {
        let book = self.ledger.book();
        let waiting = book.clients.iter().filter(|client| client.sessions.is_empty());
        waiting.map(|client| format!("{} has no session with the fresh cluster", client.device)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Fault, Target};

    fn of(id: u64, kind: FaultKind, phase: &str, why: Option<&str>) -> Recorded {
        let mut of = json!({ "id": id, "kind": kind.name(), "nodes": [], "phase": phase });
        if let Some(why) = why {
            of["why"] = why.into();
        }
        Recorded { at: 0, event: "fault".into(), of }
    }

    fn plan(kept: bool) -> Plan {
        let fault = |kind| Fault { kind, target: Target::Node(1), at_ms: 7, lasts_ms: 0, amount: 0 };
        Plan { faults: [FaultKind::Kill, FaultKind::Wipe].map(fault).into(), kept, ..Plan::default() }
    }

    #[test]
    fn a_plan_that_is_kept_must_play_its_faults() {
        let events = [of(0, FaultKind::Kill, "begin", None), of(1, FaultKind::Wipe, "skipped", Some("not now"))];
        let said = |kept, events: &[Recorded]| -> Vec<_> {
            unplayed(&plan(kept), events).into_iter().map(|violation| violation.text).collect()
        };
        assert!(said(false, &events).is_empty(), "chance may draw more than is allowed at once");
        assert_eq!(said(true, &events), ["the fault wipe of n1 at 7 ms was left out: not now"]);
        assert_eq!(said(false, &events[..1]), ["1 of 2 faults were never played"]);
    }

    #[test]
    fn what_had_nothing_to_hit_is_not_held_to_account() {
        let events =
            [of(0, FaultKind::Kill, "end", None), of(1, FaultKind::Wipe, "end", Some("there was nothing to hit"))];
        assert_eq!(hit(&plan(false), &events).collect::<Vec<_>>(), [FaultKind::Kill]);
    }
}
