//! What one run says to whoever adds up many: a small file of JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::slo::{Histogram, Slo};

/// See the module.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Summary {
    /// The run's seed.
    pub seed: u64,
    /// Virtual time, in ns.
    pub took: u64,
    /// Messages that were `ok`'d, and all receptions.
    pub stored: usize,
    /// See above.
    pub received: usize,
    /// Faults that happened, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Faults that the fault model left out, by kind.
    pub skipped: BTreeMap<String, u64>,
    /// When the first of those that happened began, in ns.
    pub first_fault: Option<u64>,
    /// How often each rare thing happened.
    pub coverage: BTreeMap<String, u64>,
    /// What was broken, each by its kind and its words.
    pub violations: Vec<(String, String)>,
    /// How long lone crashes of processes were unknown, in ns.
    pub stale: Histogram,
    /// What users would say.
    pub slo: Slo,
}
