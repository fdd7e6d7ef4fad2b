//! What the inbox holds: when it is read, and how it is written.
//!
//! Invariants: nothing is read while what waits to be written, or is unacknowledged, is at its limit; what a
//! drill holds back is at most one page of what this session may show anyway, and nothing is read after it until it
//! is written, so the order stays.

use std::time::Duration;

use cluster::env::clock::Instant;
use cluster::id::Pos;
use cluster::session::Delivery;

use super::{Core, Moment, Stage};
use crate::protocol::{self, ServerBody};
use crate::session::hooks::TestHooks;
use crate::session::ws;
use crate::telemetry::What;

/// Deliveries are written while less than this waits to be written, in bytes.
pub const DELIVERY_HIGH_BYTES: usize = 32 << 10;
/// Most messages read from the inbox at once.
const PAGE_MESSAGES: usize = 64;

/// What is to be read from the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Strictly after this position.
    pub after: Pos,
    /// At most so many messages.
    pub count: usize,
    /// At most about so many bytes.
    pub bytes: usize,
}

/// A page that is not written yet.
pub struct Held {
    until: Instant,
    deliveries: Vec<Delivery>,
}

impl Core {
    /// What to read from the inbox now, if there is reason to read and room to write.
    pub fn wants_page(&self, waiting_out: usize) -> Option<Page> {
        if !self.inbox || self.held.is_some() || self.stage != Stage::Live || waiting_out >= DELIVERY_HIGH_BYTES {
            return None;
        }
        let (count, bytes) = self.window.room()?;
        let bytes = bytes.min(DELIVERY_HIGH_BYTES - waiting_out);
        Some(Page { after: self.window.sent(), count: count.min(PAGE_MESSAGES), bytes })
    }

    /// Whether there is something to deliver, and only unwritten bytes stand in its way.
    pub fn wants_room(&self, waiting_out: usize) -> bool {
        waiting_out >= DELIVERY_HIGH_BYTES && (self.wants_page(0).is_some() || self.wants_presences(0))
    }

    /// Writes what was read, if no drill holds it back. An empty page: the inbox is read to its end.
    pub fn page(&mut self, deliveries: Vec<Delivery>, at: Moment, out: &mut Vec<u8>) {
        self.inbox = !deliveries.is_empty();
        match self.delay() {
            Some(delay) if self.inbox => self.held = Some(Box::new(Held { until: at.now + delay, deliveries })),
            _ => self.write(&deliveries, at, out),
        }
    }

    fn write(&mut self, deliveries: &[Delivery], at: Moment, out: &mut Vec<u8>) {
        for delivery in deliveries {
            let start = out.len();
            match delivery {
                Delivery::Message { message, body } => {
                    self.note(at.wall_ms, What::Sent { mid: message.mid, seq: message.pos });
                    self.written_trace(message, at);
                    ws::put_text(out, |out| protocol::write_msg(out, message, body));
                }
                Delivery::Gap { seq, reason, lost } => {
                    let gap = protocol::Gap { reason: (*reason).into(), lost: *lost };
                    self.note(at.wall_ms, What::Gap { seq: *seq, reason: gap.reason, lost: *lost });
                    self.say(None, ServerBody::Gap(seq.0, gap), at, out);
                }
            }
            self.window.wrote(delivery.seq(), out.len() - start, at.now);
            self.heart.said(at.now);
        }
    }

    /// How long a drill wants deliveries to be late, if it does.
    pub(super) fn delay(&self) -> Option<Duration> {
        self.node.hooks.as_ref().map(TestHooks::delay).filter(|delay| !delay.is_zero())
    }

    /// When [`Core::release`] has something to do.
    pub(super) fn release_at(&self) -> Option<Instant> {
        self.held.as_ref().filter(|_| self.stage == Stage::Live).map(|held| held.until)
    }

    /// Writes what was held back for long enough.
    pub(super) fn release(&mut self, at: Moment, out: &mut Vec<u8>) {
        if self.release_at().is_some_and(|due| due <= at.now)
            && let Some(held) = self.held.take()
        {
            self.write(&held.deliveries, at, out);
        }
    }
}
