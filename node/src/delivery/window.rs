//! What was written to a client and not yet acknowledged.
//!
//! Invariants: positions are written in growing order, none twice on one connection; an
//! acknowledgement never passes what was written (G3); what is unacknowledged stays within the
//! limits in count and, one message excepted, in bytes (G7), so that a ping never waits behind
//! minutes of buffered messages.

use std::collections::VecDeque;
use std::time::Duration;

use cluster::env::clock::Instant;
use cluster::id::Pos;

/// Most that a client may leave unacknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes of frames. A single larger message is let through when nothing else is under way.
    pub bytes: usize,
}

/// The client acknowledged what it was never sent: a protocol violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("acknowledged {upto}, but only {sent} was sent")]
pub struct BeyondSent {
    /// What the client acknowledged.
    pub upto: Pos,
    /// The last that was written.
    pub sent: Pos,
}

#[derive(Debug)]
struct Entry {
    pos: Pos,
    bytes: usize,
    written: Instant,
}

/// One connection's window.
#[derive(Debug)]
pub struct Window {
    limits: WindowLimits,
    sent: Pos,
    acked: Pos,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Of `entries`, those at the front that were counted as too late.
    late: usize,
}

impl Window {
    /// A window of a connection on which nothing was written yet.
    #[must_use]
    pub fn new(limits: WindowLimits) -> Self {
        Self { limits, sent: Pos::ZERO, acked: Pos::ZERO, entries: VecDeque::new(), bytes: 0, late: 0 }
    }

    /// The last position written: the inbox is read on after it.
    #[must_use]
    pub fn sent(&self) -> Pos {
        self.sent
    }

    /// How much more may be written: messages and bytes, both positive; `None` when it is full.
    #[must_use]
    pub fn room(&self) -> Option<(usize, usize)> {
        let messages = self.limits.messages.saturating_sub(self.entries.len());
        let bytes = self.limits.bytes.saturating_sub(self.bytes);
        (messages > 0 && bytes > 0).then_some((messages, bytes))
    }

    /// A frame of `bytes` with the message or gap at `pos` was written.
    ///
    /// # Panics
    /// When `pos` is not after everything written before: the reader is broken.
    pub fn wrote(&mut self, pos: Pos, bytes: usize, now: Instant) {
        assert!(pos > self.sent, "{pos} written after {}", self.sent);
        self.sent = pos;
        self.bytes += bytes;
        self.entries.push_back(Entry { pos, bytes, written: now });
    }

    /// The client has everything up to `upto`. True if that is news.
    ///
    /// # Errors
    /// When it was never sent that much.
    pub fn ack(&mut self, upto: Pos) -> Result<bool, BeyondSent> {
        if upto > self.sent {
            return Err(BeyondSent { upto, sent: self.sent });
        }
        if upto <= self.acked {
            return Ok(false);
        }
        self.acked = upto;
        while let Some(entry) = self.entries.front().filter(|entry| entry.pos <= upto) {
            self.bytes -= entry.bytes;
            self.late = self.late.saturating_sub(1);
            self.entries.pop_front();
        }
        if self.entries.is_empty() {
            // An idle connection keeps no buffer.
            self.entries = VecDeque::new();
        }
        Ok(true)
    }

    /// Messages that have now been unacknowledged for `timeout` or longer; each is told once.
    pub fn late(&mut self, now: Instant, timeout: Duration) -> u64 {
        let before = self.late;
        while self.entries.get(self.late).is_some_and(|entry| entry.written + timeout <= now) {
            self.late += 1;
        }
        (self.late - before) as u64
    }

    /// When [`Window::late`] has news next, if nothing is acknowledged until then.
    #[must_use]
    pub fn late_at(&self, timeout: Duration) -> Option<Instant> {
        self.entries.get(self.late).map(|entry| entry.written + timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn window(messages: usize, bytes: usize) -> Window {
        Window::new(WindowLimits { messages, bytes })
    }

    #[test]
    fn room_shrinks_and_grows() {
        let now = Instant::default();
        let mut window = window(3, 100);
        assert_eq!(window.room(), Some((3, 100)));
        window.wrote(Pos(10), 30, now);
        window.wrote(Pos(12), 30, now);
        assert_eq!((window.room(), window.sent()), (Some((1, 40)), Pos(12)));
        window.wrote(Pos(20), 10, now);
        assert_eq!(window.room(), None, "full by count");
        assert_eq!(window.ack(Pos(11)), Ok(true), "an ack between two positions");
        assert_eq!(window.room(), Some((1, 60)));
        window.wrote(Pos(21), 500, now);
        assert_eq!(window.ack(Pos(20)), Ok(true));
        assert_eq!(window.room(), None, "full by bytes");
        assert_eq!(window.ack(Pos(21)), Ok(true));
        assert_eq!(window.room(), Some((3, 100)));
    }

    #[test]
    fn acks_never_go_back_nor_ahead() {
        let mut window = window(8, 1000);
        assert_eq!(window.ack(Pos(0)), Ok(false));
        assert_eq!(window.ack(Pos(1)), Err(BeyondSent { upto: Pos(1), sent: Pos(0) }));
        window.wrote(Pos(5), 1, Instant::default());
        assert_eq!(window.ack(Pos(5)), Ok(true));
        assert_eq!(window.ack(Pos(5)), Ok(false));
        assert_eq!(window.ack(Pos(3)), Ok(false));
        assert!(window.ack(Pos(6)).is_err());
        assert!(window.ack(Pos(u64::MAX)).is_err());
    }

    #[test]
    fn each_late_message_is_told_once() {
        let start = Instant::from_nanos(1);
        let mut window = window(8, 1000);
        window.wrote(Pos(1), 1, start);
        window.wrote(Pos(2), 1, start + SECOND);
        window.wrote(Pos(3), 1, start + SECOND * 2);
        assert_eq!(window.late_at(SECOND), Some(start + SECOND));
        assert_eq!(window.late(start, SECOND), 0);
        assert_eq!(window.late(start + SECOND * 2, SECOND), 2);
        assert_eq!(window.late(start + SECOND * 2, SECOND), 0);
        assert_eq!(window.late_at(SECOND), Some(start + SECOND * 3));
        assert_eq!(window.ack(Pos(1)), Ok(true));
        assert_eq!(window.late(start + SECOND * 9, SECOND), 1);
        assert_eq!(window.late_at(SECOND), None);
        assert_eq!(window.ack(Pos(3)), Ok(true));
        window.wrote(Pos(4), 1, start + SECOND * 9);
        assert_eq!(window.late_at(SECOND), Some(start + SECOND * 10));
    }
}
