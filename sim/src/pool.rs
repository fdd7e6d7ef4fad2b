//! Many things at a time, and how far they are.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;
use std::{iter, thread};

use cluster::sync::lock;

use crate::child::Watch;

/// How often people at a terminal are told how far it is.
const TO_PEOPLE: Duration = Duration::from_secs(5);
/// How often a log is.
const TO_A_LOG: Duration = Duration::from_secs(30);

/// Does `work` with each of the items, `jobs` at a time; what came of them, in no order. Each item is taken when its
/// turn has come.
///
/// # Errors
/// One of those that `work` met.
pub fn each<T, R: Send>(
    items: impl Iterator<Item = T> + Send,
    jobs: usize,
    work: impl Fn(T) -> io::Result<R> + Sync,
) -> io::Result<Vec<R>> {
    let items = Mutex::new(items);
    let next = || lock(&items).next();
    let share = || iter::from_fn(next).map(&work).collect::<io::Result<Vec<R>>>();
    let shares = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(share)).collect();
        let shares = workers.into_iter().map(|worker| worker.join().expect("a worker does not panic"));
        shares.collect::<io::Result<Vec<_>>>()
    })?;
    Ok(shares.into_iter().flatten().collect())
}

/// How far many runs are.
pub struct Progress {
    all: u64,
    watch: Watch,
    so_far: Mutex<SoFar>,
}

#[derive(Default)]
struct SoFar {
    done: u64,
    failed: u64,
    said: Duration,
}

impl Progress {
    /// None of `all` is over.
    pub fn of(all: u64) -> Self {
        Self { all, watch: Watch::start(), so_far: Mutex::default() }
    }

    /// Since they began.
    pub fn elapsed(&self) -> Duration {
        self.watch.elapsed()
    }

    /// One more is over. Now and then, tells whoever waits.
    pub fn done(&self, has_failed: bool) {
        let (now, terminal) = (self.elapsed(), io::stderr().is_terminal());
        let period = if terminal { TO_PEOPLE } else { TO_A_LOG };
        let mut so_far = lock(&self.so_far);
        so_far.done += 1;
        so_far.failed += u64::from(has_failed);
        if now < so_far.said + period {
            return;
        }
        so_far.said = now;
        let SoFar { done, failed, .. } = *so_far;
        let left = now.as_secs_f64() / done as f64 * self.all.saturating_sub(done) as f64;
        let line = format!("{done} of {} done, {failed} failed, {left:.0} s to go", self.all);
        let mut err = io::stderr();
        // On a terminal each is written over the one before.
        let _ = if terminal { write!(err, "\r{line}   ") } else { writeln!(err, "{line}") };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn each_item_is_done_once_and_none_after_an_error() {
        let mut done = each(0..100, 3, Ok).expect("nothing fails");
        done.sort_unstable();
        assert!(done.into_iter().eq(0..100));
        let count = AtomicU64::new(0);
        let failed = each(0..100, 1, |n| {
            count.fetch_add(1, Ordering::Relaxed);
            if n == 5 { Err(io::Error::other("five")) } else { Ok(n) }
        });
        assert!(failed.is_err());
        assert_eq!(count.into_inner(), 6);
    }
}
