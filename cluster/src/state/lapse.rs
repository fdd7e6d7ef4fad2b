//! An inbox at its limits, and messages that grow too old.
//!
//! Invariant (G1): no message that was stored leaves without every known device having passed it,
//! or having it counted in a gap, pending now or due as soon as the device is back. At a limit the
//! devices that lag lose what they hold; the foremost one never does: the send is refused instead.

use std::sync::Arc;

use super::device::{Device, GapReason, NEVER};
use super::effect::{Effect, SendRefusal};
use super::message::Message;
use super::ring::SendResult;
use super::user::{Context, User};
use crate::id::{Pos, UserId};

impl User {
    /// Stores a message for this user, or refuses it.
    pub fn store(&mut self, name: &UserId, message: Arc<Message>, ctx: &mut Context) -> SendResult {
        self.make_space(name, message.body.len() as u64, ctx)?;
        if self.inbox.is_empty() {
            self.oldest_ms = self.oldest_ms.min(message.stored_at_ms);
        }
        self.inbox.push(message, false);
        Ok(())
    }

    /// Whether the messages from this ordinal on and one more keep within the limits.
    fn fits(&self, ordinal: u64, bytes: u64, ctx: &Context) -> bool {
        let count = self.inbox.next() - ordinal + 1;
        let bytes = self.inbox.bytes_from(ordinal) + bytes;
        count <= u64::from(ctx.limits.inbox_messages) && bytes <= ctx.limits.inbox_bytes
    }

    /// Lapses the devices that lag most until a message of so many bytes has space.
    fn make_space(&mut self, name: &UserId, bytes: u64, ctx: &mut Context) -> SendResult {
        if self.fits(self.inbox.base(), bytes, ctx) {
            return Ok(());
        }
        let devices = self.devices.iter().filter_map(Device::holds);
        let foremost = devices.chain(self.heir.iter().map(|heir| heir.cursor.front())).max();
        // First, so that no device loses anything for a message that is refused in the end.
        if !self.fits(foremost.expect("somebody holds the inbox"), bytes, ctx) {
            return Err(SendRefusal::InboxFull);
        }
        let mut lapsed = Vec::new();
        while !self.fits(self.inbox.base(), bytes, ctx) {
            for (index, device) in self.devices.iter_mut().enumerate() {
                if device.holds() == Some(self.inbox.base()) {
                    lapse(name, device, &self.inbox, ctx, || lapsed.push(index));
                }
            }
            self.trim();
        }
        for index in lapsed {
            // What other devices hold is not lost yet: this one may be back before it has left.
            let device = &mut self.devices[index];
            let lost = self.inbox.base() - device.cursor.front();
            device.lapsed = Some(self.inbox.base());
            ctx.effects.push(Effect::Lapsed { user: name.clone(), lost, node: None });
        }
        Ok(())
    }

    /// Ends a device's lapse: it gets a gap for what has left meanwhile, and goes on behind it.
    pub fn resume(&mut self, name: &UserId, index: usize, effects: &mut Vec<Effect>) {
        let device = &mut self.devices[index];
        let Some(counted) = device.lapsed.take() else { return };
        let base = self.inbox.base();
        device.cursor.lose(self.inbox.left(), base, GapReason::InboxLimit);
        if base > counted {
            effects.push(Effect::Lapsed { user: name.clone(), lost: base - counted, node: device.session });
        }
    }

    /// Drops the messages from `oldest_ms`, which are too old, at most `budget`; returns how many, and
    /// makes `oldest_ms` exact.
    pub fn expire(&mut self, name: &UserId, budget: usize, ctx: &mut Context) -> usize {
        let mut dropped = 0;
        let mut pairs = 0;
        let mut wake = false;
        // If none is from the time of the bound, something else may be due first: then it only becomes exact.
        while dropped < budget
            && let Some(slot) = self.inbox.front()
            && slot.message.stored_at_ms == self.oldest_ms
        {
            let (seq, base) = (slot.pos, self.inbox.base());
            for device in self.devices.iter_mut().filter(|device| device.holds() == Some(base)) {
                device.cursor.lose(seq, base + 1, GapReason::Expired);
                wake |= device.session.is_some();
                pairs += 1;
            }
            if let Some(heir) = &mut self.heir {
                heir.cursor.lose(seq, base + 1, GapReason::Expired);
                pairs += 1;
            }
            self.inbox.drop_before(base + 1);
            dropped += 1;
        }
        let old = self.copies.iter().filter(|copies| copies.oldest_ms() == self.oldest_ms);
        let old: Vec<Pos> = old.flat_map(|copies| copies.oldest(budget - dropped)).collect();
        for (node, lost) in self.drop_copies(&old, GapReason::Expired) {
            wake |= node.is_some();
            pairs += lost;
        }
        dropped += old.len();
        let copies_ms = self.copies.as_ref().map_or(NEVER, |copies| copies.oldest_ms());
        self.oldest_ms = self.inbox.front().map_or(NEVER, |slot| slot.message.stored_at_ms).min(copies_ms);
        if dropped > 0 {
            self.date_heir(ctx.now_ms, ctx.limits);
            ctx.effects.push(Effect::Expired { user: name.clone(), count: pairs });
        }
        if wake {
            ctx.effects.push(Effect::Wake(name.clone()));
        }
        dropped
    }
}

/// A device loses all it holds. With a live session it is told at once and goes on with the next
/// message; else `away` is called, and the device holds nothing until it is back.
fn lapse(name: &UserId, device: &mut Device, inbox: &super::inbox::Inbox, ctx: &mut Context, away: impl FnOnce()) {
    let Some(node) = device.session else {
        device.lapsed = Some(device.cursor.front());
        return away();
    };
    let lost = inbox.next() - device.cursor.front();
    device.cursor.lose(inbox.last(), inbox.next(), GapReason::InboxLimit);
    ctx.effects.push(Effect::Lapsed { user: name.clone(), lost, node: Some(node) });
}
