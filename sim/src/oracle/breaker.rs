//! The breaker: what is stored while it is open is shown to nobody before it is closed.
//!
//! What was stored before may still be on its way. Sends are answered as ever, and all is delivered in the end:
//! that other oracles see to, for whom an open breaker is no excuse.

use super::facts::{self, Pause};
use super::{History, Violation, safety};

/// What clients were shown too early.
pub fn check(history: &History, broken: &mut Vec<Violation>) {
    if history.facts.pauses.is_empty() {
        return;
    }
    for (id, client) in history.book.clients.iter().enumerate() {
        for got in &client.received {
            let entry = facts::index(got.seq);
            let held = history.facts.pauses.iter().find(|pause| holds(pause, entry));
            let Some(pause) = held.filter(|pause| pause.closed.is_none_or(|(_, at)| got.at < at)) else { continue };
            let (who, opened) = (history.book.client(id), pause.opened);
            let text = format!("breaker: {who} was shown {}, and the breaker was open since entry {opened}", got.seq);
            broken.push(safety(text).at(got.at));
        }
    }
}

fn holds(pause: &Pause, entry: u64) -> bool {
    pause.opened < entry && pause.closed.is_none_or(|(closed, _)| entry < closed)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, found};
    use super::*;

    /// The second message of the good scene is entry 4, shown at 45.
    fn broken(opened: u64, closed: Option<(u64, u64)>) -> Vec<String> {
        let mut scene = Scene::good();
        scene.facts.pauses = vec![Pause { opened, closed }];
        scene.broken_by(check)
    }

    #[test]
    fn what_was_held_back_comes_later() {
        assert_eq!(broken(3, Some((5, 45))), Vec::<String>::new());
        assert_eq!(broken(4, None), Vec::<String>::new(), "stored before");
        assert_eq!(broken(1, Some((3, 20))), Vec::<String>::new());
    }

    #[test]
    fn a_leak_shows() {
        for closed in [None, Some((9, 46))] {
            found(&broken(3, closed), "w/a@1 was shown 16384, and the breaker was open since entry 3");
        }
    }
}
