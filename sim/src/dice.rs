//! Seeded chance.

use std::sync::{Arc, Mutex};

use cluster::sync::lock;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A source of chance of its own, so that more rolls in one place do not shift those of another.
#[derive(Debug, Clone)]
pub struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    /// The dice of a run for one `purpose`.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mixed =
            u64::from(crc32fast::hash(purpose.as_bytes())) << 32 | u64::from(crc32fast::hash(&seed.to_le_bytes()));
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed ^ mixed))))
    }

    /// A number in `low..=high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        lock(&self.0).random_range(low..=high)
    }

    /// True once in `times`, on average.
    pub fn one_in(&self, times: u64) -> bool {
        self.between(1, times) == 1
    }

    /// True in so many of 100 cases, on average.
    pub fn percent(&self, cases: u64) -> bool {
        self.between(1, 100) <= cases
    }

    /// One of `all`, which is not empty.
    pub fn pick<T: Copy>(&self, all: &[T]) -> T {
        all[self.between(0, all.len() as u64 - 1) as usize]
    }
}
