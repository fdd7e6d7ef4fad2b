//! What users would say of the service: availability by probes from outside, latency and success as
//! clients saw them.

mod histogram;
pub mod openmetrics;
mod verdict;

use std::collections::{BTreeMap, HashMap};

use im_gateway::client::Fate;
use serde::{Deserialize, Serialize};

pub use histogram::Histogram;
pub use verdict::days;

use crate::ledger::{Book, Client, Name, Surfaced};
use crate::nemesis::FaultSpan;
use crate::workload::{Probe, SINK};

/// The objectives: share of the time, 99th percentile in ns, share of messages.
pub const AVAILABILITY: f64 = 0.9995;
pub const P99_NS: u64 = 200_000_000;
pub const SUCCESS: f64 = 0.9999;

/// How long after its end a fault still counts as the cause of a failure, ns.
const AFTERMATH: u64 = 10_000_000_000;

/// What a run came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Slo {
    /// Probes made.
    pub probes: u64,
    /// Probes that failed.
    pub failed_probes: u64,
    /// From a message's sending to the first of its recipient's devices having it, ns; of recipients
    /// who were connected when it was sent.
    pub latency: Histogram,
    /// Receptions.
    pub delivered: u64,
    /// Messages refused for good, or lost to a device by a gap.
    pub failed: u64,
    /// Failed probes, failed messages and late ones by the faults at the time.
    pub causes: BTreeMap<String, Spent>,
}

/// What a cause cost.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Spent {
    /// Probes that failed.
    pub probes: u64,
    /// Messages later than the objective.
    pub late: u64,
    /// Messages that failed.
    pub failed: u64,
}

/// A share; all, of nothing.
fn share(good: u64, all: u64) -> f64 {
    if all == 0 { 1.0 } else { good as f64 / all as f64 }
}

impl Slo {
    /// Of a run.
    pub fn of(book: &Book, probes: &[Probe], faults: &[FaultSpan]) -> Self {
        let mut slo = Self::default();
        for probe in probes {
            slo.probes += 1;
            if probe.took.is_none() {
                slo.failed_probes += 1;
                slo.spent(faults, probe.at).probes += 1;
            }
        }
        for (sent_at, took) in latencies(book) {
            slo.latency.add(took);
            if took > P99_NS {
                slo.spent(faults, sent_at).late += 1;
            }
        }
        for client in &book.clients {
            for got in &client.received {
                match got.what {
                    Surfaced::Message { .. } => slo.delivered += 1,
                    Surfaced::Gap { lost } => {
                        slo.failed += lost;
                        slo.spent(faults, got.at).failed += lost;
                    }
                }
            }
            for sent in client.sent.iter().filter(|sent| matches!(sent.fate, Some(Fate::Refused { .. }))) {
                slo.failed += 1;
                slo.spent(faults, sent.at).failed += 1;
            }
        }
        slo
    }

    fn spent(&mut self, faults: &[FaultSpan], at: u64) -> &mut Spent {
        self.causes.entry(cause(faults, at)).or_default()
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        self.probes += other.probes;
        self.failed_probes += other.failed_probes;
        self.latency.merge(&other.latency);
        self.delivered += other.delivered;
        self.failed += other.failed;
        for (cause, spent) in &other.causes {
            let sum = self.causes.entry(cause.clone()).or_default();
            sum.probes += spent.probes;
            sum.late += spent.late;
            sum.failed += spent.failed;
        }
    }

    /// Share of probes that succeeded.
    pub fn availability(&self) -> f64 {
        share(self.probes - self.failed_probes, self.probes)
    }

    /// Share of messages that did not fail.
    pub fn success(&self) -> f64 {
        share(self.delivered, self.delivered + self.failed)
    }

    /// 99th percentile, ns.
    pub fn p99(&self) -> u64 {
        self.latency.quantile(0.99).unwrap_or(0)
    }

    /// Whether all objectives are met.
    pub fn is_met(&self) -> bool {
        self.availability() >= AVAILABILITY && self.p99() < P99_NS && self.success() >= SUCCESS
    }

    /// Share of the error budget of availability, and of success, that is spent; 1 is all of it.
    pub fn budget_spent(&self) -> (f64, f64) {
        let spent = |got: f64, objective: f64| (1.0 - got) / (1.0 - objective);
        (spent(self.availability(), AVAILABILITY), spent(self.success(), SUCCESS))
    }
}

/// The faults at a moment.
fn cause(faults: &[FaultSpan], at: u64) -> String {
    let during = faults.iter().filter(|fault| fault.from <= at && at <= fault.until.saturating_add(AFTERMATH));
    let mut kinds: Vec<_> = during.map(|fault| fault.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() { "no fault".to_owned() } else { kinds.join(" + ") }
}

/// When each message was sent and how long it took, of recipients who were connected; without those
/// whose sender left before, and floods.
pub fn latencies(book: &Book) -> Vec<(u64, u64)> {
    let mut first: HashMap<Name, u64> = HashMap::new();
    let mut by_user: HashMap<&str, Vec<&Client>> = HashMap::new();
    for client in &book.clients {
        by_user.entry(&client.device.user).or_default().push(client);
        for got in &client.received {
            // A copy for another device of the sender is no delivery.
            if let Surfaced::Message { name: Some(name), to: Some(to), .. } = &got.what
                && *to == client.device.user
            {
                let name = *name;
                first.entry(name).and_modify(|at| *at = got.at.min(*at)).or_insert(got.at);
            }
        }
    }
    let measured = book.all_sent().filter(|(_, sent)| !sent.to.starts_with(SINK));
    let took = measured.filter_map(|(name, sent)| {
        let at = *first.get(&name)?;
        let stayed = book.clients[name.client].closed_at.is_none_or(|closed| closed > at);
        let there = by_user.get(sent.to.as_str())?.iter().any(|client| !client.slow && was_connected(client, sent.at));
        (stayed && there).then(|| (sent.at, at.saturating_sub(sent.at)))
    });
    took.collect()
}

fn was_connected(client: &Client, at: u64) -> bool {
    let next = client.sessions.partition_point(|session| session.at <= at);
    let session = next.checked_sub(1).map(|last| client.sessions[last]);
    session.is_some_and(|session| session.ended_at.is_none_or(|ended| ended > at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(at: u64, ok: bool) -> Probe {
        Probe { at, took: ok.then_some((1, 1)) }
    }

    #[test]
    fn failures_are_put_down_to_the_faults_at_the_time() {
        let kill = FaultSpan { kind: "kill".into(), nodes: Vec::new(), from: 100, until: 200 };
        let probes = [probe(50, true), probe(150, false), probe(300 + AFTERMATH, false)];
        let slo = Slo::of(&Book::default(), &probes, &[kill]);
        assert_eq!((slo.probes, slo.failed_probes), (3, 2));
        assert_eq!(slo.causes["kill"].probes, 1);
        assert_eq!(slo.causes["no fault"].probes, 1);
    }

    #[test]
    fn the_budget() {
        let slo = Slo { probes: 10_000, failed_probes: 5, delivered: 99_995, failed: 5, ..Slo::default() };
        let (availability, success) = slo.budget_spent();
        assert!((availability - 1.0).abs() < 1e-6 && (success - 0.5).abs() < 1e-3, "{availability} {success}");
        assert!(slo.is_met());
        assert!(!Slo { failed_probes: 6, ..slo }.is_met());
    }
}
