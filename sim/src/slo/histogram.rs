//! Durations counted in classes three per cent wide: small, and the sum of many runs is as good as one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Classes between a power of two and the next.
const STEPS: u64 = 32;

/// See the module. Durations in ns; below [`STEPS`] they are exact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram(BTreeMap<u64, u64>);

fn class(nanos: u64) -> u64 {
    if nanos < STEPS {
        return nanos;
    }
    let power = u64::from(nanos.ilog2() - STEPS.ilog2());
    (power + 1) * STEPS + (nanos >> power) - STEPS
}

/// The longest duration of a class.
fn longest(class: u64) -> u64 {
    if class < STEPS {
        return class;
    }
    let power = class / STEPS - 1;
    ((class % STEPS + STEPS + 1) << power) - 1
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, nanos: u64) {
        *self.0.entry(class(nanos)).or_default() += 1;
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Self) {
        for (class, count) in &other.0 {
            *self.0.entry(*class).or_default() += count;
        }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// At most so many ns took this share of them; none if there are none.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let rank = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let mut classes = self.0.iter();
        classes.find_map(|(class, count)| {
            seen += count;
            (seen >= rank).then(|| longest(*class))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_three_per_cent_right() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.add(ms * 1_000_000));
        for (share, ms) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = histogram.quantile(share).expect("not empty") as f64 / 1e6;
            assert!(found >= ms && found < ms * 1.035, "{share}: {found}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
        for nanos in [0, 1, 31, 32, 33, 1_000, 123_456_789] {
            assert!(longest(class(nanos)) >= nanos && class(longest(class(nanos))) == class(nanos), "{nanos}");
        }
    }
}
