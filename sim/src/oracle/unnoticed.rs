//! G6: a node that stops in good order interrupts nobody: the client stands elsewhere before its session ends, and no
//! message takes longer than that of a calm hour may, or is refused.

use im_gateway::client::Fate;

use super::{Violation, safety};
use crate::ledger::Book;
use crate::slo;

/// What somebody noticed: a time without a connection, a message that took longer than `most_ms`, or one that was
/// refused.
pub fn check(book: &Book, most_ms: u64) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (id, client) in book.clients.iter().enumerate() {
        // Another one of its device's may have taken its place.
        let refused = client.refused.map_or(u64::MAX, |(at, _)| at);
        let left = client.closed_at.unwrap_or(u64::MAX).min(refused);
        for ended in client.sessions.iter().filter_map(|session| session.ended_at).filter(|ended| *ended < left) {
            let text = format!("G6: {} was without a connection, and should have noticed nothing", book.client(id));
            broken.push(safety(text).at(ended));
        }
    }
    let late = slo::latencies(book).into_iter().max_by_key(|(_, took)| *took);
    if let Some((at, took)) = late.filter(|(_, took)| *took > most_ms * 1_000_000) {
        let text = format!("G6: a message took {} ms, and nobody should have noticed anything", took / 1_000_000);
        broken.push(safety(text).at(at));
    }
    for (name, sent) in book.all_sent() {
        if let Some(Fate::Refused { code, .. }) = &sent.fate {
            let text =
                format!("G6: {} was refused ({code:?}), and nobody should have noticed anything", book.message(name));
            broken.push(safety(text).at(sent.answered_at));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use im_gateway::protocol::ErrorCode;

    use super::super::testing::{Scene, found};
    use super::*;

    #[test]
    fn whoever_is_interrupted_shows() {
        let mut scene = Scene::good();
        assert!(check(&scene.book, 1).is_empty());
        let sent = &mut scene.book.clients[0].sent[0];
        sent.at = sent.at.saturating_sub(1);
        let received = &mut scene.book.clients[1].received[0];
        received.at += 2_000_000;
        found(&texts(&check(&scene.book, 1)), "a message took 2 ms");
        let mut scene = Scene::good();
        scene.book.clients[0].sent[0].fate = Some(Fate::Refused { code: ErrorCode::InboxFull, message: String::new() });
        found(&texts(&check(&scene.book, 1)), "was refused (InboxFull)");
        let mut scene = Scene::good();
        scene.book.clients[0].sessions[0].ended_at = Some(7);
        found(&texts(&check(&scene.book, 1)), "was without a connection");
        scene.book.clients[0].closed_at = Some(7);
        assert!(check(&scene.book, 1).is_empty());
    }

    fn texts(broken: &[Violation]) -> Vec<String> {
        broken.iter().map(|violation| violation.text.clone()).collect()
    }
}
