//! Deliveries that a drill holds back.
//!
//! Invariant: at most one page, of what this session may show anyway; nothing is read after it until it is written,
//! so the order stays.

use std::time::Duration;

use cluster::env::clock::Instant;
use cluster::session::Delivery;

use super::{Core, Moment, Stage};
use crate::session::hooks::TestHooks;

/// A page that is not written yet.
pub struct Held {
    pub until: Instant,
    pub deliveries: Vec<Delivery>,
}

impl Core {
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
