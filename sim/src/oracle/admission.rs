//! G7: a crowd is let in at the pace that nodes are set to, and in the end all of it.
//!
//! Judged where nothing goes wrong and clocks go right. A connection's moment is when its client knew of it, so it may
//! be somewhat later than the node's.

use std::collections::BTreeMap;

use super::{Violation, liveness, safety};
use crate::ledger::{Arrival, Book};

/// In ns.
const SECOND: u64 = 1_000_000_000;
/// By how much more one client may know of its connection late than another, in ns.
const LATE: u64 = 100_000_000;
/// Who asked so long ago is in, in ns.
const PATIENCE: u64 = 30 * SECOND;

/// Crowds that were let in too fast by nodes that open `per_s` connections a second, and as many at once after a
/// pause; and who was left outside before strangers went, at `end`.
pub fn check(book: &Book, per_s: u32, end: u64) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (node, times) in admissions(book) {
        if let Some((first, last)) = worst(&times, per_s) {
            let (count, ms) = (last - first + 1, (times[last] - times[first]) / 1_000_000);
            let text = format!("G7: n{node} let {count} connections in within {ms} ms, {per_s} a second are allowed");
            broken.push(safety(text).at(times[last]));
        }
    }
    let is_outside = |arrival: &&Arrival| arrival.admitted_at.is_none() && arrival.asked_at + PATIENCE < end;
    let outside: Vec<_> = book.arrivals.iter().filter(is_outside).collect();
    if let Some(first) = outside.first() {
        let (count, s) = (outside.len(), PATIENCE / SECOND);
        let text = format!("G7: {count} of a storm not let in, {s} s and more after they asked first");
        broken.push(liveness(text).at(first.asked_at + PATIENCE));
    }
    broken
}

/// When each node let somebody in, in order, as far as clients knew at once.
fn admissions(book: &Book) -> BTreeMap<usize, Vec<u64>> {
    let storms = book.arrivals.iter().filter_map(|arrival| Some((arrival.node, arrival.admitted_at?)));
    // A slow application learns of its sessions late.
    let prompt = book.clients.iter().filter(|client| !client.slow);
    let sessions = prompt.flat_map(|client| &client.sessions).map(|session| (session.node, session.at));
    let mut by_node: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for (node, at) in storms.chain(sessions) {
        by_node.entry(node).or_default().push(at);
    }
    by_node.values_mut().for_each(|times| times.sort_unstable());
    by_node
}

/// The first and the last of those that are the most beyond what may come in between, if any are.
fn worst(times: &[u64], per_s: u32) -> Option<(usize, usize)> {
    let (rate, second) = (i128::from(per_s), i128::from(SECOND));
    // How many came before it, less those that the rate lets in until then; in billionths.
    let ahead = |n: usize| n as i128 * second - rate * i128::from(times[n]);
    let most = (rate + 1) * second + rate * i128::from(LATE);
    let (mut first, mut worst, mut worst_beyond) = (0, None, 0);
    for last in 0..times.len() {
        if ahead(last) < ahead(first) {
            first = last;
        }
        let beyond = ahead(last) - ahead(first) + second - most;
        if beyond > worst_beyond {
            (worst, worst_beyond) = (Some((first, last)), beyond);
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, found};
    use super::*;

    const MS: u64 = 1_000_000;

    /// Let in by n0 at these ms.
    fn let_in(times_ms: impl IntoIterator<Item = u64>) -> Book {
        let arrival = |ms| Arrival { node: 0, asked_at: MS, admitted_at: Some(ms * MS) };
        Book { arrivals: times_ms.into_iter().map(arrival).collect(), ..Book::default() }
    }

    /// At ten a second.
    fn said(book: &Book, end: u64) -> Vec<String> {
        check(book, 10, end).into_iter().map(|violation| violation.text).collect()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let burst = std::iter::repeat_n(1_000, 10);
        let steady = (1..=50).map(|n| 1_000 + n * 100);
        assert_eq!(said(&let_in(burst.clone().chain(steady)), u64::MAX), Vec::<String>::new());
        assert_eq!(said(&let_in(burst.clone().chain(std::iter::repeat_n(1_900, 10))), u64::MAX), Vec::<String>::new());
        let mut both = let_in(burst.clone().chain(burst));
        assert_eq!(said(&both, u64::MAX), ["G7: n0 let 20 connections in within 0 ms, 10 a second are allowed"]);
        both.arrivals.iter_mut().skip(10).for_each(|arrival| arrival.node = 1);
        assert_eq!(said(&both, u64::MAX), Vec::<String>::new(), "each node has its own");
    }

    #[test]
    fn a_rate_that_is_too_high_shows_in_the_end() {
        found(&said(&let_in((0..126).map(|n| n * 80)), u64::MAX), "let 126 connections in within 10000 ms");
        assert_eq!(said(&let_in((0..20).map(|n| n * 80)), u64::MAX), Vec::<String>::new());
    }

    #[test]
    fn sessions_count_as_well() {
        let mut scene = Scene::good();
        let session = &mut scene.book.clients[0].sessions[0];
        (session.at, session.node) = (1_000 * MS, 0);
        scene.book.arrivals = let_in(std::iter::repeat_n(1_000, 12)).arrivals;
        found(&said(&scene.book, u64::MAX), "let 13 connections in within 0 ms");
        scene.book.clients[0].slow = true;
        assert_eq!(said(&scene.book, u64::MAX), Vec::<String>::new(), "nobody knows when that was");
    }

    #[test]
    fn who_is_left_outside_shows() {
        let outside = Arrival { node: 0, asked_at: 10 * SECOND, admitted_at: None };
        let book = Book { arrivals: vec![outside], ..let_in([1_000]) };
        found(&said(&book, 41 * SECOND), "1 of a storm not let in, 30 s and more");
        assert_eq!(said(&book, 40 * SECOND), Vec::<String>::new(), "it has some time left");
        assert_eq!(said(&let_in([1_000]), 90 * SECOND), Vec::<String>::new());
    }
}
