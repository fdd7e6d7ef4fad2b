//! G7: clients that lag, and strangers that keep to no rules, cost others nothing.
//!
//! Where nothing goes wrong with machines, links and disks, everybody who takes what comes is served as
//! the objectives say, whatever crowd is beside them.

use super::{Violation, safety};
use crate::slo::{P99_NS, Slo};

/// Messages below which a percentile says nothing.
const ENOUGH: u64 = 1_000;

/// What users would say of a run without faults.
pub fn check(slo: &Slo) -> Vec<Violation> {
    let mut broken = Vec::new();
    if slo.failed_probes > 0 {
        let (failed, all) = (slo.failed_probes, slo.probes);
        broken.push(safety(format!("G7: nothing went wrong, and {failed} of {all} probes failed")));
    }
    if slo.latency.count() >= ENOUGH && slo.p99() >= P99_NS {
        let ms = slo.p99() / 1_000_000;
        broken.push(safety(format!("G7: nothing went wrong, and the 99th percentile of latency is {ms} ms")));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_served_late_shows() {
        let mut slo = Slo { probes: 9, ..Slo::default() };
        (0..990).for_each(|_| slo.latency.add(5_000_000));
        (0..10).for_each(|_| slo.latency.add(900_000_000));
        assert!(check(&slo).is_empty());
        (0..10).for_each(|_| slo.latency.add(900_000_000));
        assert!(check(&slo)[0].text.contains("99th percentile"));
        let slo = Slo { probes: 9, failed_probes: 1, ..Slo::default() };
        assert!(check(&slo)[0].text.contains("1 of 9 probes failed"));
    }
}
