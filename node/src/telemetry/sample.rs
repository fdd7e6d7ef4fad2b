//! One of so many events is logged, so that a busy node does not write more than it serves.

use std::sync::atomic::{AtomicU64, Ordering};

/// Lets every `one_in`th through, the first included.
#[derive(Debug)]
pub struct Sampler {
    one_in: u64,
    seen: AtomicU64,
}

impl Sampler {
    /// `one_in` 1 lets everything through, 0 nothing.
    #[must_use]
    pub fn new(one_in: u64) -> Self {
        Self { one_in, seen: AtomicU64::new(0) }
    }

    /// Whether this one is let through.
    pub fn hit(&self) -> bool {
        self.one_in > 0 && self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_one_in_so_many_through() {
        let hits = |one_in| {
            let sampler = Sampler::new(one_in);
            (0..100).filter(|_| sampler.hit()).count()
        };
        assert_eq!((hits(0), hits(1), hits(10), hits(1000)), (0, 100, 10, 1));
    }
}
