//! Messages that came in, as a pure core: what is new, what the application has yet to take, and
//! what may be acknowledged.
//!
//! Invariant: each message is surfaced once and in the order of `seq`, on however many connections
//! it comes (G2, G3). What is acknowledged was taken by the application or is among the next `ahead`
//! that it will take, and was sent on the connection that the acknowledgement goes to.

use std::collections::{BTreeSet, VecDeque};

use cluster::id::MessageId;

/// Ids remembered to recognise a message that was stored twice. Repeats of one stored message are
/// recognised by their `seq`, for ever.
const RECENT: usize = 4_096;

/// A queue that has this many more items than may be acknowledged stops the reading of the socket.
/// A node's window is smaller, so this is for nodes that do not keep to theirs.
const EXCESS: usize = 4_096;

/// Items that came in and were not taken yet.
pub struct Inbox<T> {
    queue: VecDeque<(u64, T)>,
    /// How many items are acknowledged before the application took them.
    ahead: usize,
    /// The highest `seq` seen.
    seen: u64,
    /// The epoch of the latest session.
    epoch: u64,
    /// The `seq` of the item taken last.
    taken: u64,
    /// The highest `seq` that came by the present connection.
    heard: u64,
    /// The last acknowledgement on the present connection.
    acked: u64,
    recent: BTreeSet<MessageId>,
    recent_order: VecDeque<MessageId>,
}

impl<T> Inbox<T> {
    /// An inbox that acknowledges up to `ahead` items before they are taken; with 0, only what the
    /// application has taken.
    #[must_use]
    pub fn new(ahead: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            ahead,
            seen: 0,
            epoch: 0,
            taken: 0,
            heard: 0,
            acked: 0,
            recent: BTreeSet::new(),
            recent_order: VecDeque::new(),
        }
    }

    /// A new connection stands, with a session of this epoch if it is known. Everything that came
    /// before has a lower position than a later registration: where it has not, the cluster's log
    /// began anew, and old positions mean nothing. Returns whether it did.
    pub fn connected(&mut self, epoch: Option<u64>) -> bool {
        (self.heard, self.acked) = (0, 0);
        let Some(epoch) = epoch else { return false };
        let began_anew = epoch < self.seen.max(self.epoch);
        self.epoch = epoch;
        if began_anew {
            (self.seen, self.taken) = (0, 0);
            // What waits to be taken belongs to the old log: nothing of it can be acknowledged.
            self.queue.iter_mut().for_each(|(seq, _)| *seq = 0);
        }
        began_anew
    }

    /// Takes in what came at `seq`. `false` when it was surfaced before.
    pub fn offer(&mut self, seq: u64, mid: Option<MessageId>, item: T) -> bool {
        self.heard = self.heard.max(seq);
        if seq <= self.seen {
            return false;
        }
        self.seen = seq;
        if mid.is_some_and(|mid| !self.remember(mid)) {
            return false;
        }
        self.queue.push_back((seq, item));
        true
    }

    fn remember(&mut self, mid: MessageId) -> bool {
        if !self.recent.insert(mid) {
            return false;
        }
        self.recent_order.push_back(mid);
        if self.recent_order.len() > RECENT {
            let oldest = self.recent_order.pop_front().expect("it is not empty");
            self.recent.remove(&oldest);
        }
        true
    }

    /// The next item for the application.
    pub fn take(&mut self) -> Option<T> {
        let (seq, item) = self.queue.pop_front()?;
        self.taken = self.taken.max(seq);
        Some(item)
    }

    /// The acknowledgement to send now, if there is one that says anything new.
    pub fn ack(&mut self) -> Option<u64> {
        let ours = match (self.lags(), self.ahead) {
            (false, _) => self.seen,
            (true, 0) => self.taken,
            (true, ahead) => self.queue[ahead - 1].0,
        };
        let ack = ours.min(self.heard);
        (ack > self.acked).then(|| {
            self.acked = ack;
            ack
        })
    }

    /// Whether taking an item lets more be acknowledged or read.
    #[must_use]
    pub fn lags(&self) -> bool {
        self.queue.len() > self.ahead
    }

    /// Whether no more should be read until the application takes something.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queue.len() >= self.ahead + EXCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledges_what_is_taken_or_soon_will_be() {
        let mut inbox = Inbox::new(2);
        for seq in [10, 20, 30, 40] {
            assert!(inbox.offer(seq, None, seq));
        }
        assert_eq!((inbox.ack(), inbox.ack()), (Some(20), None));
        assert_eq!((inbox.take(), inbox.ack()), (Some(10), Some(30)));
        assert_eq!((inbox.take(), inbox.take(), inbox.ack()), (Some(20), Some(30), Some(40)));
        let mut strict = Inbox::new(0);
        strict.offer(10, None, ());
        strict.offer(20, None, ());
        assert_eq!(strict.ack(), None);
        strict.take();
        assert_eq!(strict.ack(), Some(10));
    }

    #[test]
    fn never_acknowledges_what_the_connection_did_not_bring() {
        let mut inbox = Inbox::new(8);
        inbox.offer(10, None, 10);
        inbox.offer(20, None, 20);
        assert!(!inbox.connected(Some(25)));
        assert_eq!(inbox.ack(), None);
        assert!(!inbox.offer(10, None, 10));
        assert_eq!(inbox.ack(), Some(10));
        assert!(!inbox.offer(20, None, 20));
        assert!(inbox.offer(30, None, 30));
        assert_eq!(inbox.ack(), Some(30));
        assert_eq!([inbox.take(), inbox.take(), inbox.take(), inbox.take()], [Some(10), Some(20), Some(30), None]);
    }

    #[test]
    fn a_message_stored_twice_is_surfaced_once() {
        let mut inbox = Inbox::new(8);
        assert!(inbox.offer(10, Some(MessageId([1; 16])), ()));
        assert!(!inbox.offer(20, Some(MessageId([1; 16])), ()));
        assert_eq!(inbox.ack(), Some(20));
    }

    #[test]
    fn a_new_log_starts_afresh() {
        let mut inbox = Inbox::new(1);
        inbox.offer(1_000, None, 1);
        inbox.offer(2_000, None, 2);
        assert!(inbox.connected(Some(5)));
        assert!(inbox.offer(10, None, 3));
        assert_eq!(inbox.ack(), None);
        assert_eq!([inbox.take(), inbox.take(), inbox.take()], [Some(1), Some(2), Some(3)]);
        assert_eq!(inbox.ack(), Some(10));
        assert!(!inbox.connected(None));
        assert!(inbox.connected(Some(4)), "a session before the last one");
    }
}
