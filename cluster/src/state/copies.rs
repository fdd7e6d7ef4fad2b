//! What a user sent to others, for the user's other devices.
//!
//! Invariants: every device of the sender that is known at a direct message's position gets it there, as
//! the recipient's do (G3), or is told by a gap that it is lost (G1); but not the device that sent it, which
//! holds none. A copy is none to oneself, refuses no send, and takes no room from what others sent: at a
//! limit of their own the oldest copies go. Who has one device, as most have, pays nothing for it.

use std::sync::Arc;

use super::device::{Device, GapReason};
use super::effect::Effect;
use super::held::{Held, Waiting};
use super::message::Message;
use super::user::{Context, User};
use crate::id::{DeviceId, Pos, UserId};

/// What a device with its cursor at `pos` has not passed.
fn behind(pos: Pos) -> (Pos, Pos) {
    (pos, Pos(u64::MAX))
}

impl User {
    /// The copies that wait.
    pub fn copies(&self) -> impl Iterator<Item = &Waiting> {
        self.copies.iter().flat_map(|copies| copies.iter())
    }

    pub fn has_copies(&self) -> bool {
        self.copies.is_some()
    }

    /// The copies that a device has still to read behind a position.
    pub fn copies_for(&self, device: &DeviceId, after: Pos) -> impl Iterator<Item = &Arc<Message>> {
        let waiting = self.copies.iter().flat_map(move |copies| copies.range(behind(after)));
        waiting.map(|waiting| &waiting.message).filter(move |message| message.device != *device)
    }

    /// Keeps what one of the devices sent for the other ones, of which there are some; whether any of them has
    /// a live session.
    pub fn copy(&mut self, name: &UserId, message: Arc<Message>, ctx: &mut Context) -> bool {
        let others = || self.devices.iter().filter(|device| device.id != message.device);
        let (held, live) = (others().count() as u64, others().any(|device| device.session.is_some()));
        let bytes = message.body.len() as u64;
        let surplus = |copies: &Held| copies.surplus(bytes, ctx.limits, ctx.feature_level);
        let dropped = self.copies.as_deref().map(surplus).unwrap_or_default();
        for (node, lost) in self.drop_copies(&dropped, GapReason::InboxLimit) {
            ctx.effects.push(Effect::Lapsed { user: name.clone(), lost, node });
        }
        self.oldest_ms = self.oldest_ms.min(message.stored_at_ms);
        self.copies.get_or_insert_default().push(Waiting { message, held, acked: false });
        live
    }

    /// Lets copies go. Each device that holds any has a gap for them; how many each lost, with the node of its
    /// live session.
    pub fn drop_copies(&mut self, dropped: &[Pos], reason: GapReason) -> Vec<(Option<crate::id::NodeId>, u64)> {
        let mut all_lost = Vec::new();
        let Some(copies) = &mut self.copies else { return all_lost };
        let by: Vec<(Pos, DeviceId)> =
            copies.iter().take(dropped.len()).map(|of| (of.message.pos, of.message.device.clone())).collect();
        assert!(by.iter().map(|(pos, _)| pos).eq(dropped), "the oldest go first");
        dropped.iter().for_each(|pos| copies.remove(*pos));
        let devices = self.devices.iter_mut().map(|of| (Some(&of.id), of.session, &mut of.cursor));
        let heir = self.heir.iter_mut().map(|heir| (None, None, &mut heir.cursor));
        for (id, node, cursor) in devices.chain(heir) {
            let held = by.iter().filter(|(pos, by)| *pos > cursor.pos && Some(by) != id);
            let (last, lost) = held.fold((Pos::ZERO, 0), |(_, lost), (pos, _)| (*pos, lost + 1));
            if lost > 0 {
                cursor.lose_scattered(last, lost, reason);
                all_lost.push((node, lost));
            }
        }
        self.tidy_copies();
        all_lost
    }

    /// A device's cursor went from `before` to `after`: how many copies it passed.
    pub fn pass_copies(&mut self, id: &DeviceId, before: Pos, after: Pos) -> u64 {
        let mut count = 0;
        if let Some(copies) = &mut self.copies {
            copies.release((before, after), |waiting| {
                let held = waiting.message.device != *id;
                count += u64::from(held);
                held
            });
            self.tidy_copies();
        }
        count
    }

    /// A device is forgotten: what it held, it holds no more; the last one's heir does.
    pub fn release_copies(&mut self, gone: &Device) {
        if !self.devices.is_empty()
            && let Some(copies) = &mut self.copies
        {
            copies.release(behind(gone.cursor.pos), |waiting| waiting.message.device != gone.id);
            self.tidy_copies();
        }
    }

    /// A device takes over what the heir held. What a device of this name had sent, before it was forgotten, it
    /// holds not.
    pub fn inherit_copies(&mut self, id: &DeviceId) {
        if let Some(copies) = &mut self.copies {
            copies.release(behind(Pos::ZERO), |waiting| waiting.message.device == *id);
            self.tidy_copies();
        }
    }

    fn tidy_copies(&mut self) {
        self.copies.take_if(|copies| copies.is_empty());
    }

    /// What waits here of copies, to write it down.
    pub fn held_copies(&self) -> Option<&Held> {
        self.copies.as_deref()
    }
}
