//! How many bytes of log lie behind an entry, about.
//!
//! openraft keeps a number of entries for replicas that lag; entries differ in size a hundredfold,
//! so that number alone bounds nothing.

use std::collections::VecDeque;

/// Between two samples, in bytes.
const STEP: u64 = 64 << 10;

/// Samples of the log's growth since it was opened.
#[derive(Default)]
pub(super) struct Weight {
    written: u64,
    /// Index of an entry, and what had been written with it.
    samples: VecDeque<(u64, u64)>,
}

impl Weight {
    /// Notes an appended entry.
    pub(super) fn add(&mut self, index: u64, bytes: u64) {
        self.written += bytes;
        if self.samples.back().is_none_or(|(_, at)| self.written - at >= STEP) {
            self.samples.push_back((index, self.written));
        }
    }

    /// Forgets the samples up to `index`.
    pub(super) fn purge(&mut self, index: u64) {
        while self.samples.front().is_some_and(|(first, _)| *first <= index) {
            self.samples.pop_front();
        }
    }

    /// The newest sampled entry with at least `bytes` of log behind it.
    pub(super) fn before(&self, bytes: u64) -> Option<u64> {
        let found = self.samples.iter().rev().find(|(_, at)| self.written - at >= bytes);
        found.map(|(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_where_to_cut() {
        let mut weight = Weight::default();
        for index in 0..1000 {
            weight.add(index, 100 << 10);
        }
        assert_eq!(weight.before(1 << 40), None);
        let at = weight.before(10 << 20).expect("there is more");
        assert!((895..900).contains(&at), "{at}");
        weight.purge(at);
        assert_eq!(weight.before(20 << 20), None);
    }
}
