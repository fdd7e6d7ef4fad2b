//! Holds a run against the guarantees.
//!
//! Invariant: oracles are pure functions over what was written down: the clients' own book, and the
//! log as it stands on the simulated disks, with what the state machine answers to it. That machine's
//! outcomes and counts property tests hold against a model (`proptests/tests/state`). What else production
//! code says of itself is never evidence, it is what is judged (its metrics, its replicas).

mod admission;
mod bounds;
mod breaker;
mod calm;
mod crowd;
mod delivery;
mod devices;
mod facts;
mod fencing;
mod groups;
mod loss;
mod members;
mod metrics;
mod order;
mod presence;
mod quorum;
mod raft;
mod reference;
mod revocation;
mod sessions;
mod signals;
mod staleness;
mod strangers;
#[cfg(test)]
mod testing;
mod told;
mod traces;
mod trail;
mod unnoticed;
mod watches;

use std::fmt;

pub use admission::check as check_admission;
pub use bounds::Rest;
pub use facts::Facts;
#[cfg(test)]
use facts::{Registered, Stored};
pub use metrics::{Scrape, ScrapedProcess};
pub use presence::Live;
pub use raft::{Committed, Journal};
pub use reference::Reference;
pub use staleness::{Death, P99 as STALE_P99_NS, check as check_stale, measure as measure_stale};
pub use strangers::check as check_strangers;
pub use traces::check as check_traces;
pub use trail::{Asked, Trail, check as check_trails};
pub use watches::check_soon as check_watches_soon;

use crate::ledger::{Book, Device};
use crate::slo::Slo;

/// A broken promise, or a run that proves nothing.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Of which kind.
    pub kind: ViolationKind,
    /// Which guarantee, and by what.
    pub text: String,
    /// When it happened, in ns, if that is known.
    pub at: Option<u64>,
}

impl Violation {
    /// With its time, in ns.
    pub fn at(mut self, at: u64) -> Self {
        self.at = Some(at);
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)?;
        self.at.map_or(Ok(()), |at| write!(f, " (at {:.3} s)", at as f64 / 1e9))
    }
}

/// Kinds of violations, the most telling first; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ViolationKind {
    /// Two runs of a seed differ.
    Determinism,
    /// Something happened that never may.
    Safety,
    /// Something did not happen in time.
    Liveness,
    /// The simulator itself is at fault, or the run was vacuous.
    Harness,
}

impl ViolationKind {
    /// The exit code of a run that ends with it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Safety => 10,
            Self::Liveness => 11,
            Self::Determinism => 12,
            Self::Harness => 13,
        }
    }
}

/// A broken promise.
pub fn safety(text: String) -> Violation {
    Violation { kind: ViolationKind::Safety, text, at: None }
}

/// A promise kept too late.
pub fn liveness(text: String) -> Violation {
    Violation { kind: ViolationKind::Liveness, text, at: None }
}

/// The simulator's own fault.
pub fn harness(text: String) -> Violation {
    Violation { kind: ViolationKind::Harness, text, at: None }
}

/// A run, as far as it has come.
pub struct History<'a> {
    /// What clients did and saw.
    pub book: &'a Book,
    /// What the log says.
    pub facts: &'a Facts,
    /// Inboxes are so small that gaps and refusals are to be expected.
    pub tight: bool,
    /// Sends that a client may have without an answer, and that the cluster remembers of a device.
    pub inflight: usize,
    /// Machines by node id, as `usize`.
    pub machines: &'a [(cluster::id::NodeId, usize)],
}

/// Everything that must hold at any time.
pub fn check(history: &History) -> Vec<Violation> {
    let mut broken = Vec::new();
    delivery::check(history, &mut broken);
    order::check(history, &mut broken);
    fencing::check(history, &mut broken);
    breaker::check(history, &mut broken);
    revocation::check(history, &mut broken);
    crowd::check(history.book, &mut broken);
    watches::check(history, &mut broken);
    signals::check(history, &mut broken);
    groups::check(history, &mut broken);
    told::check(history, &mut broken);
    broken
}

/// What is still missing once faults are over; empty when the cluster has done its work. `live`:
/// the sessions that the replicas know.
pub fn missing(history: &History, live: &[Live]) -> Vec<String> {
    let mut missing = delivery::missing(history);
    missing.extend(presence::missing(history, live));
    missing.extend(fencing::missing(history));
    missing.extend(watches::missing(history));
    missing.extend(revocation::missing(history, live));
    missing
}

/// What is left when everything has come to rest.
pub fn check_rest(rest: &Rest) -> Vec<Violation> {
    bounds::check(rest)
}

/// What devices lack when everything has come to rest, by the senders' books.
pub fn check_loss(facts: &Facts, book: &Book) -> Vec<Violation> {
    let forgotten = |device: &Device| {
        let spans = facts.known.get(device).into_iter().flatten();
        spans.filter(|span| span.until.is_some()).count() > 0
    };
    loss::check(book, facts.copied_since, forgotten)
}

/// What users would say of a run in which nothing went wrong.
pub fn check_calm(slo: &Slo) -> Vec<Violation> {
    calm::check(slo)
}

/// Nobody noticed anything.
pub fn check_unnoticed(book: &Book, most_ms: u64) -> Vec<Violation> {
    unnoticed::check(book, most_ms)
}

/// Metrics equal the ledger.
pub fn check_metrics(facts: &Facts, book: &Book, processes: &[ScrapedProcess]) -> Vec<Violation> {
    metrics::check(facts, book, processes)
}
