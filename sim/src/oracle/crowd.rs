//! G7: a crowd that lost its nodes does not come back in step.
//!
//! Clients that wait for the same outage to end must each have a pace of their own, or all of them hit
//! whoever is back first at one moment, again and again.

use std::collections::BTreeMap;

use super::{Violation, safety};
use crate::ledger::{Book, Client};

/// So many attempts in a row have failed when paces must differ by much more than [`MOMENT`].
const ATTEMPTS: usize = 8;
/// What counts as one moment, in ns.
const MOMENT: u64 = 20_000_000;
/// So many clients at one moment are a crowd in step.
const CROWD: usize = 8;

/// Attempts of many clients at one moment, twice in a row, though each of them had failed many times
/// before. Once proves nothing: a node sends all away at the moment at which it loses its quorum.
pub fn check(book: &Book, broken: &mut Vec<Violation>) {
    let mut by_number: BTreeMap<usize, BTreeMap<usize, u64>> = BTreeMap::new();
    for (id, client) in book.clients.iter().enumerate() {
        for (number, at) in numbered(client).filter(|(number, _)| *number >= ATTEMPTS) {
            by_number.entry(number).or_default().insert(id, at);
        }
    }
    for (number, times) in &by_number {
        let Some(next) = by_number.get(&(number + 1)) else { continue };
        let mut steps: Vec<_> = times.iter().filter_map(|(id, at)| Some((*at, *next.get(id)?))).collect();
        steps.sort_unstable();
        let in_step = (0..steps.len()).find(|first| {
            let together = steps[*first..].iter().take_while(|(at, _)| at - steps[*first].0 <= MOMENT);
            let mut again: Vec<u64> = together.map(|(_, next)| *next).collect();
            again.sort_unstable();
            again.windows(CROWD).any(|crowd| crowd[CROWD - 1] - crowd[0] <= MOMENT)
        });
        if let Some(first) = in_step {
            let ms = MOMENT / 1_000_000;
            let text =
                format!("G7: {CROWD} clients failed for the {number}th time within {ms} ms, and so the next time");
            broken.push(safety(text).at(steps[first].0));
        }
    }
}

/// A client's failed attempts, each with its number since the last session.
fn numbered(client: &Client) -> impl Iterator<Item = (usize, u64)> {
    let (mut number, mut sessions) = (0, 0);
    client.failed_at.iter().map(move |&at| {
        let before = client.sessions.partition_point(|session| session.at <= at);
        number = if before == sessions { number + 1 } else { 1 };
        sessions = before;
        (number, at)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, found};
    use super::*;

    /// Eight clients that fail nine times each, so much apart from each other.
    fn crowd(apart: u64) -> Scene {
        let mut scene = Scene::good();
        for n in 0..8 {
            scene.client(&format!("v{n}"), 50 + n);
            let client = scene.book.clients.last_mut().expect("it was added");
            client.failed_at = (1..=9).map(|number| number * 1_000_000_000 + n * apart).collect();
        }
        scene
    }

    #[test]
    fn a_crowd_in_step() {
        found(&crowd(1_000_000).broken_by(|history, broken| check(history.book, broken)), "8 clients failed");
    }

    #[test]
    fn each_at_its_own_pace_or_none_many_times() {
        let check = |scene: &Scene| scene.broken_by(|history, broken| check(history.book, broken));
        assert_eq!(check(&crowd(10_000_000)), Vec::<String>::new());
        let mut scene = crowd(1_000_000);
        scene.book.clients.iter_mut().for_each(|client| client.failed_at.truncate(7));
        assert_eq!(check(&scene), Vec::<String>::new());
        // A node sends all away at one moment; before and after, each has its own.
        let mut scene = crowd(10_000_000);
        scene.book.clients.iter_mut().for_each(|client| {
            if let Some(at) = client.failed_at.get_mut(7) {
                *at = 8_500_000_000;
            }
        });
        assert_eq!(check(&scene), Vec::<String>::new());
    }
}
