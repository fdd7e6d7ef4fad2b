//! Tasks, each counted at the place that starts it, so that a node can be asked what runs in it.
//!
//! Tokio tells how many tasks are alive, but not which. Go answers that with its goroutine profile;
//! this is the same by the line that spawned.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::task::JoinHandle;

use crate::sync::{read, write};

/// A line of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// As the compiler was given it.
    pub file: &'static str,
    /// From 1.
    pub line: u32,
}

/// Tasks alive by where they were started. Places are never forgotten: there are as many as the code has.
static ALIVE: RwLock<BTreeMap<Place, &'static AtomicUsize>> = RwLock::new(BTreeMap::new());

/// Starts a task on the runtime in use.
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let caller = Location::caller();
    let alive = Alive::new(Place { file: caller.file(), line: caller.line() });
    tokio::spawn(Counted { future, _alive: alive })
}

/// The same future without Tokio's budget: it waits only for what it waits for, never because its task has done much
/// already. For those whose first poll must take their place in a queue.
pub fn unconstrained<F: Future>(future: F) -> impl Future<Output = F::Output> {
    tokio_coop::task::unconstrained(future)
}

/// How many tasks are alive, by where they were started; only places with any.
#[must_use]
pub fn alive() -> Vec<(Place, usize)> {
    let all = read(&ALIVE);
    let counts = all.iter().map(|(place, count)| (*place, count.load(Ordering::Relaxed)));
    counts.filter(|(_, count)| *count > 0).collect()
}

pin_project! {
    /// A task, counted until it ends or is dropped.
    struct Counted<F> {
        #[pin]
        future: F,
        _alive: Alive,
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

/// One task at a place.
struct Alive(&'static AtomicUsize);

impl Alive {
    fn new(place: Place) -> Self {
        let known = read(&ALIVE).get(&place).copied();
        let count = known.unwrap_or_else(|| {
            let mut all = write(&ALIVE);
            all.entry(place).or_insert_with(|| Box::leak(Box::default()))
        });
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn counts_a_task_until_it_ends_or_is_aborted() {
        let here = |line| alive().iter().find(|(place, _)| place.file == file!() && place.line == line).map(|x| x.1);
        let mut tasks = Vec::new();
        let line = line!() + 2;
        for _ in 0..3 {
            tasks.push(spawn(std::future::pending::<()>()));
        }
        let other = line!() + 1;
        let ends = spawn(async { 7 });
        assert_eq!((here(line), here(other)), (Some(3), Some(1)));
        assert_eq!(ends.await.unwrap(), 7);
        tasks[0].abort();
        let _ = tasks.remove(0).await;
        assert_eq!((here(line), here(other)), (Some(2), None));
    }
}
