//! Typing and read marks: told to whom they are for, in one session no oftener than they were made, and never before.

use super::{History, Violation, safety};
use crate::ledger::{Client, Mark};

/// What was told that it should not have been.
pub fn check(history: &History, broken: &mut Vec<Violation>) {
    for (id, client) in history.book.clients.iter().enumerate() {
        for (n, told) in client.marks_told.iter().enumerate() {
            let same = |other: &Mark| other.user == told.user && other.mid == told.mid;
            let before = client.marks_told[..n].iter().filter(|other| same(other)).count();
            let others = history.book.clients.iter().enumerate();
            let by_others = others.map(|(other, by)| if other == id { 0 } else { made(by, client, told) });
            let by_others: usize = by_others.sum();
            // Oneself may be written to, and is told on all devices.
            let own = if told.mid.is_none() { made(client, client, told) } else { 0 };
            // A mark on its way between two nodes finds a device again that has moved to the second one meanwhile.
            let sessions = client.sessions.iter().filter(|session| session.at <= told.at).count().max(1);
            if before >= (by_others + own) * sessions {
                let what = told.mid.map_or("types".to_owned(), |mid| format!("has read {mid}"));
                let (who, user) = (history.book.client(id), &told.user);
                let text = format!("signals: {who} was told once more than was said to it that {user} {what}");
                broken.push(safety(text).at(told.at));
            }
        }
    }
}

/// How often a client had made that mark by then, for this one: as addressee, or as another device of the reader.
fn made(by: &Client, client: &Client, told: &Mark) -> usize {
    if by.device.user != told.user {
        return 0;
    }
    let is_for = |mark: &&Mark| {
        let own_read = mark.mid.is_some() && by.device.user == client.device.user;
        mark.at <= told.at && mark.mid == told.mid && (mark.user == client.device.user || own_read)
    };
    by.marks_made.iter().filter(is_for).count()
}

#[cfg(test)]
mod tests {
    use cluster::id::MessageId;

    use super::super::testing::{Scene, found};
    use super::*;

    fn mark(at: u64, user: &str, mid: Option<u8>) -> Mark {
        Mark { at, user: user.into(), mid: mid.map(|byte| MessageId([byte; 16])) }
    }

    /// `u` types to `w` and has read a message of `w`'s; a third one listens.
    fn good() -> Scene {
        let mut scene = Scene::good();
        scene.client("v", 5);
        scene.book.clients[0].marks_made = vec![mark(10, "w", None), mark(20, "w", Some(1))];
        scene.book.clients[1].marks_told = vec![mark(12, "u", None), mark(22, "u", Some(1))];
        scene
    }

    #[test]
    fn a_good_one() {
        assert_eq!(good().broken_by(check), Vec::<String>::new());
    }

    #[test]
    fn third_parties() {
        for told in [mark(12, "u", None), mark(22, "u", Some(1))] {
            let mut scene = good();
            scene.book.clients[2].marks_told.push(told);
            found(&scene.broken_by(check), "v/a@2 was told once more than was said to it that u");
        }
    }

    #[test]
    fn again_after_a_move() {
        let mut scene = good();
        scene.book.clients[1].marks_told.push(mark(30, "u", None));
        let first = scene.book.clients[1].sessions[0];
        scene.book.clients[1].sessions.push(crate::ledger::Session { at: 25, ..first });
        assert_eq!(scene.broken_by(check), Vec::<String>::new());
    }

    #[test]
    fn twice_or_before() {
        let mut scene = good();
        scene.book.clients[1].marks_told.push(mark(30, "u", None));
        found(&scene.broken_by(check), "once more");
        let mut scene = good();
        scene.book.clients[1].marks_told[0].at = 9;
        found(&scene.broken_by(check), "that u types");
    }
}
