//! What senders are told of delivery: never before a device of the recipient has taken the message.

use super::{History, Violation, safety};
use crate::ledger::{Client, Surfaced, Told};

/// What was told too early, or to somebody else.
pub fn check(history: &History, broken: &mut Vec<Violation>) {
    for (id, client) in history.book.clients.iter().enumerate() {
        for told in &client.told {
            let by_others = |taker: &&Client| taker.device.user == told.by;
            let taken = history.book.clients.iter().filter(by_others).any(|taker| took(taker, client, told));
            if !taken {
                let (who, Told { mid, by, .. }) = (history.book.client(id), told);
                let text = format!("G1: {who} was told that {by} has {mid}, of which no device of theirs had acked it");
                broken.push(safety(text).at(told.at));
            }
        }
    }
}

/// Whether a client had surfaced that message of the sender's device by then: it acknowledges it no sooner.
fn took(taker: &Client, sender: &Client, told: &Told) -> bool {
    let before = taker.received.iter().take_while(|received| received.at <= told.at);
    before.into_iter().any(|received| match &received.what {
        Surfaced::Message { mid, from, .. } => *mid == told.mid && *from == sender.device,
        Surfaced::Gap { .. } => false,
    })
}

#[cfg(test)]
mod tests {
    use cluster::id::MessageId;

    use super::super::testing::{Scene, found};
    use super::*;

    /// `w` has taken the first of `u`'s messages at 35.
    fn told(id: usize, at: u64, by: &str, mid: u8) -> Vec<String> {
        let mut scene = Scene::good();
        scene.book.clients[id].told.push(Told { at, mid: MessageId([mid; 16]), by: by.into() });
        scene.broken_by(check)
    }

    #[test]
    fn after_it_was_taken() {
        assert_eq!(told(0, 35, "w", 1), Vec::<String>::new());
    }

    #[test]
    fn too_early_or_not_so() {
        for broken in [told(0, 34, "w", 1), told(0, 99, "v", 1), told(0, 99, "w", 7), told(1, 99, "w", 1)] {
            found(&broken, "was told that");
        }
    }
}
