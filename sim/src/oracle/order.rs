//! G3 and G4 in real time: what began after something else had ended has a higher place in the log.
//!
//! A message's place is fixed between its sending and its `ok`, a session's epoch between its hello
//! and its welcome. So no log that lost its end and grew again, and no restart, goes unseen.

use std::collections::HashMap;

use im_gateway::client::Fate;

use super::{History, Violation, safety};

/// Something that has a place in the log.
struct Span {
    began_at: u64,
    ended_at: u64,
    pos: u64,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Message(crate::ledger::Name),
    Session(usize),
}

/// Checks that places grow with time.
pub fn check(history: &History, broken: &mut Vec<Violation>) {
    let mut by_beginning = spans(history);
    let mut by_end: Vec<usize> = (0..by_beginning.len()).collect();
    by_beginning.sort_by_key(|span| span.began_at);
    by_end.sort_by_key(|&at| by_beginning[at].ended_at);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<usize> = None;
    for span in &by_beginning {
        while let Some(at) = ended.next_if(|&at| by_beginning[at].ended_at < span.began_at) {
            if highest.is_none_or(|highest| by_beginning[at].pos > by_beginning[highest].pos) {
                highest = Some(at);
            }
        }
        if let Some(before) = highest.map(|at| &by_beginning[at]).filter(|before| before.pos >= span.pos) {
            let (before_name, name) = (name(history, before.what), name(history, span.what));
            let text = format!("G3: {name} is at {}, though {before_name} at {} had come before", span.pos, before.pos);
            broken.push(safety(text).at(span.began_at));
        }
    }
}

fn spans(history: &History) -> Vec<Span> {
    let places: HashMap<_, _> =
        history.facts.stored.iter().filter_map(|stored| Some((stored.name?, stored.pos))).collect();
    let messages = history.book.all_sent().filter_map(|(name, sent)| {
        matches!(sent.fate, Some(Fate::Stored(_))).then_some(())?;
        let pos = *places.get(&name)?;
        Some(Span { began_at: sent.at, ended_at: sent.answered_at, pos, what: What::Message(name) })
    });
    let prompt = history.book.clients.iter().enumerate().filter(|(_, client)| !client.slow);
    let sessions = prompt.flat_map(|(id, client)| {
        client.sessions.iter().map(move |session| Span {
            began_at: session.began_at,
            ended_at: session.at,
            pos: session.epoch,
            what: What::Session(id),
        })
    });
    messages.chain(sessions).collect()
}

fn name(history: &History, what: What) -> String {
    match what {
        What::Message(name) => history.book.message(name),
        What::Session(id) => format!("a session of {}", history.book.client(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, found, pos};
    use super::*;

    #[test]
    fn a_good_history_is_good() {
        assert_eq!(Scene::good().broken_by(check), Vec::<String>::new());
    }

    #[test]
    fn an_epoch_that_goes_back() {
        let mut scene = Scene::good();
        let mut again = scene.book.clients[0].sessions[0];
        (again.began_at, again.at, again.epoch) = (900, 910, pos(2));
        scene.book.clients[0].sessions.push(again);
        found(&scene.broken_by(check), "a session of u/a@0 is at");
    }

    #[test]
    fn a_message_before_one_that_was_answered() {
        let mut scene = Scene::good();
        scene.book.clients[0].sent[1].at = 90;
        scene.book.clients[0].sent[0].answered_at = 80;
        scene.facts.stored[0].pos = pos(9);
        found(&scene.broken_by(check), "u/a@0#1 is at");
    }
}
