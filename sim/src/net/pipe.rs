//! One direction of a stream: bytes on their way, and those that arrived unread.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::time::NEVER;

/// The receiver's part of the bytes in buffers: what arrived within it is acknowledged. The sender's
/// part is as large.
pub const WINDOW: usize = 64 << 10;
/// The same where buffers are tiny: a few frames.
pub const TINY_WINDOW: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct Pipe {
    window: usize,
    segments: VecDeque<Segment>,
    len: usize,
    /// When the end arrives, if the sender has closed.
    end: Option<u64>,
    /// When the last thing sent arrives.
    last: u64,
    /// When the receiver's system last took something, or the sender began to wait for that.
    progress: u64,
    /// Since when a cut holds something back.
    held_since: Option<u64>,
}

#[derive(Debug)]
struct Segment {
    arrives: u64,
    bytes: Bytes,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Bytes.
    Bytes(Bytes),
    /// The end.
    End,
    /// Nothing before this moment.
    Nothing(u64),
}

impl Pipe {
    /// With so many bytes of buffer at either end.
    pub fn new(window: usize) -> Self {
        Self { window, segments: VecDeque::new(), len: 0, end: None, last: 0, progress: 0, held_since: None }
    }

    /// How many bytes the sender may write.
    pub fn room(&self) -> usize {
        (2 * self.window).saturating_sub(self.len)
    }

    /// Whether the sender has closed.
    pub fn is_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether unread bytes have arrived.
    pub fn has_unread(&self, now: u64) -> bool {
        self.segments.front().is_some_and(|segment| segment.arrives <= now)
    }

    /// Whether anything is on its way or unread.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Sends bytes that arrive at `arrives`, but not before what was sent earlier; says when they do.
    pub fn push(&mut self, now: u64, arrives: u64, bytes: Bytes) -> u64 {
        if !self.is_unacknowledged(now) {
            self.progress = now;
        }
        self.len += bytes.len();
        self.schedule(now, arrives);
        self.segments.push_back(Segment { arrives: self.last, bytes });
        self.last
    }

    /// Sends the end.
    pub fn finish(&mut self, now: u64, arrives: u64) {
        self.schedule(now, arrives);
        self.end = Some(self.last);
    }

    fn schedule(&mut self, now: u64, arrives: u64) {
        self.last = self.last.max(arrives);
        if self.last == NEVER {
            self.held_since.get_or_insert(now);
        }
    }

    /// Since when a cut holds something back.
    pub fn held_since(&self) -> Option<u64> {
        self.held_since
    }

    /// Takes bytes that arrived, at most `limit`, which is only asked if there are any.
    pub fn pop(&mut self, now: u64, limit: impl FnOnce() -> usize) -> Found {
        let Some(segment) = self.segments.front_mut() else {
            return match self.end {
                Some(at) if at <= now => Found::End,
                at => Found::Nothing(at.unwrap_or(NEVER)),
            };
        };
        if segment.arrives > now {
            return Found::Nothing(segment.arrives);
        }
        let bytes = segment.bytes.split_to(limit().min(segment.bytes.len()));
        if !segment.bytes.has_remaining() {
            self.segments.pop_front();
        }
        if self.len > self.window {
            self.progress = now;
        }
        self.len -= bytes.len();
        Found::Bytes(bytes)
    }

    /// Throws away what was not read.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.len = 0;
    }

    /// What has not arrived never will.
    pub fn lose(&mut self, now: u64) {
        let lost = |at: &mut u64| {
            if *at > now {
                *at = NEVER;
            }
        };
        self.segments.iter_mut().for_each(|segment| lost(&mut segment.arrives));
        self.end.as_mut().map(lost);
        self.last = NEVER;
    }

    /// What a cut held back arrives at `arrives`.
    pub fn release(&mut self, arrives: u64) {
        let held = |at: &mut u64| {
            if *at == NEVER {
                *at = arrives;
            }
        };
        self.segments.iter_mut().for_each(|segment| held(&mut segment.arrives));
        self.end.as_mut().map(held);
        held(&mut self.last);
        self.held_since = None;
    }

    fn is_unacknowledged(&self, now: u64) -> bool {
        self.len > self.window || self.segments.back().is_some_and(|segment| segment.arrives > now)
    }

    /// Since when the sender waits for an acknowledgement without any progress.
    pub fn waiting_since(&self, now: u64) -> Option<u64> {
        let arrived = self.segments.partition_point(|segment| segment.arrives <= now);
        let last = arrived.checked_sub(1).map_or(0, |at| self.segments[at].arrives);
        self.is_unacknowledged(now).then(|| self.progress.max(last))
    }
}
