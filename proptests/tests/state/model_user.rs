//! The naive machine's users: every device has its own list of messages it is owed, nothing is
//! shared, counted or scheduled ahead.

use std::collections::{BTreeMap, BTreeSet};

use cluster::id::{DeviceId, Epoch, GroupId, MessageId, NodeId, Pos, UserId};
use cluster::state::{GapReason, Limits, SendRefusal};

use crate::seen::Seen;

#[derive(Debug, Default)]
pub struct MUser {
    /// Every message there ever was.
    pub messages: BTreeMap<Pos, MMessage>,
    /// Every message there ever was that one of the devices sent while there were others: its sender, its length
    /// and when it was stored.
    pub copies: BTreeMap<Pos, (DeviceId, u64, u64)>,
    pub devices: BTreeMap<DeviceId, MDevice>,
    pub gone: BTreeMap<DeviceId, MGone>,
    /// Client instances that were replaced, the last ones first.
    pub replaced: BTreeMap<DeviceId, Vec<u64>>,
    pub heir: Share,
    pub heir_gap_until: Option<u64>,
    /// Groups and since when; with an end, those that were left and have still to be read.
    pub groups: BTreeSet<(GroupId, Pos, Option<Pos>)>,
}

#[derive(Debug)]
pub struct MMessage {
    pub mid: MessageId,
    pub len: u64,
    pub stored_at: u64,
    pub acked: bool,
}

/// What somebody is owed.
#[derive(Debug, Clone, Default)]
pub struct Share {
    pub cursor: Pos,
    pub owed: Vec<Pos>,
    pub gap: Option<(Pos, u64, GapReason)>,
    pub group_owed: BTreeSet<(GroupId, Pos)>,
    /// What other devices of the user sent.
    pub copies_owed: BTreeSet<Pos>,
    /// Of groups and copies.
    pub scattered_gap: Option<(Pos, u64, GapReason)>,
}

pub type Ring = Vec<(MessageId, Result<(), SendRefusal>)>;

#[derive(Debug)]
pub struct MDevice {
    pub share: Share,
    pub last: (u64, u64, Epoch),
    pub ephemeral: bool,
    pub node: Option<NodeId>,
    /// Losses already reported.
    pub lapsed: Option<u64>,
    pub forget_at: Option<u64>,
    pub ring_until: Option<u64>,
    pub ring: Ring,
}

#[derive(Debug)]
pub struct MGone {
    pub last: (u64, u64, Epoch),
    pub ring: Ring,
    pub until: u64,
}

impl Share {
    pub fn has_gap(&self) -> bool {
        self.gap.is_some() || self.scattered_gap.is_some()
    }

    /// Loses one message of a group, if it is owed.
    pub fn lose_of_group(&mut self, group: &GroupId, pos: Pos, reason: GapReason) -> bool {
        let owed = self.group_owed.remove(&(group.clone(), pos));
        if owed {
            self.lose_scattered(pos, reason);
        }
        owed
    }

    /// Loses one copy, if it is owed.
    pub fn lose_copy(&mut self, pos: Pos, reason: GapReason) -> bool {
        let owed = self.copies_owed.remove(&pos);
        if owed {
            self.lose_scattered(pos, reason);
        }
        owed
    }

    fn lose_scattered(&mut self, pos: Pos, reason: GapReason) {
        let (seq, before, was) = self.scattered_gap.unwrap_or((pos, 0, reason));
        let reason = if was == GapReason::InboxLimit { was } else { reason };
        self.scattered_gap = Some((seq.max(pos), before + 1, reason));
    }

    pub fn lose(&mut self, upto: Pos, reason: GapReason) -> u64 {
        let lost = self.owed.iter().filter(|pos| **pos <= upto).count() as u64;
        if lost > 0 {
            let (_, before, was) = self.gap.unwrap_or((upto, 0, reason));
            let reason = if was == GapReason::InboxLimit { was } else { reason };
            self.owed.retain(|pos| *pos > upto);
            self.gap = Some((upto, before + lost, reason));
        }
        lost
    }
}

impl MUser {
    pub fn holders(&self) -> Vec<&Share> {
        if self.devices.is_empty() {
            return vec![&self.heir];
        }
        self.devices.values().filter(|device| device.lapsed.is_none()).map(|device| &device.share).collect()
    }

    pub fn waiting(&self) -> BTreeSet<Pos> {
        self.holders().iter().flat_map(|share| share.owed.iter().copied()).collect()
    }

    /// Copies that somebody is owed.
    pub fn copies_waiting(&mut self) -> BTreeSet<Pos> {
        self.shares().into_iter().flat_map(|(_, share)| share.copies_owed.clone()).collect()
    }

    /// Their bytes.
    pub fn copies_bytes(&self, copies: &BTreeSet<Pos>) -> u64 {
        copies.iter().map(|pos| self.copies[pos].1).sum()
    }

    /// Somebody loses a copy: with whose node.
    pub fn drop_copy(&mut self, pos: Pos, reason: GapReason) -> Vec<Option<NodeId>> {
        let shares = self.shares().into_iter();
        shares.filter_map(|(node, share)| share.lose_copy(pos, reason).then_some(node)).collect()
    }

    /// A device sent this to somebody else: it is owed to the other ones.
    pub fn copy(
        &mut self,
        name: &UserId,
        pos: Pos,
        (by, len, now): (&DeviceId, u64, u64),
        limits: &Limits,
        effects: &mut Vec<Seen>,
    ) {
        loop {
            let waiting = self.copies_waiting();
            let bytes = self.copies_bytes(&waiting);
            let fits = waiting.len() < limits.inbox_messages as usize && bytes + len <= limits.inbox_bytes;
            let Some(oldest) = waiting.first().filter(|_| !fits) else { break };
            for node in self.drop_copy(*oldest, GapReason::InboxLimit) {
                effects.push(Seen::Lapsed(name.clone(), node, 1));
            }
        }
        self.copies.insert(pos, (by.clone(), len, now));
        for (_, device) in self.devices.iter_mut().filter(|(id, _)| *id != by) {
            device.share.copies_owed.insert(pos);
            if device.node.is_some() {
                effects.push(Seen::Wake(name.clone()));
            }
        }
    }

    pub fn bytes(&self, messages: &BTreeSet<Pos>) -> u64 {
        messages.iter().map(|pos| self.messages[pos].len).sum()
    }

    pub fn remembered(&self) -> bool {
        let waits = !self.heir.owed.is_empty() || !self.heir.copies_owed.is_empty();
        let inherited = waits || self.heir.has_gap() || !self.groups.is_empty();
        !self.devices.is_empty() || !self.gone.is_empty() || inherited
    }

    /// Everybody who is owed something, or will be.
    pub fn shares(&mut self) -> Vec<(Option<NodeId>, &mut Share)> {
        if self.devices.is_empty() {
            return vec![(None, &mut self.heir)];
        }
        self.devices.values_mut().map(|device| (device.node, &mut device.share)).collect()
    }

    /// Forgets the groups that were left and read to the end.
    pub fn tidy(&mut self) {
        let owed: BTreeSet<_> = self.shares().into_iter().flat_map(|(_, share)| share.group_owed.clone()).collect();
        let owes = |group: &GroupId, from: Pos, until: Pos| {
            owed.iter().any(|(of, pos)| of == group && from < *pos && *pos <= until)
        };
        self.groups.retain(|(group, from, until)| until.is_none_or(|until| owes(group, *from, until)));
    }

    pub fn resume(&mut self, name: &UserId, id: &DeviceId, effects: &mut Vec<Seen>) {
        let waiting = self.waiting();
        let device = self.devices.get_mut(id).unwrap();
        let Some(reported) = device.lapsed.take() else { return };
        let last_lost = device.share.owed.iter().rfind(|pos| !waiting.contains(pos)).copied();
        if let Some(upto) = last_lost {
            let lost = device.share.lose(upto, GapReason::InboxLimit);
            if lost > reported {
                effects.push(Seen::Lapsed(name.clone(), device.node, lost - reported));
            }
        }
    }

    pub fn make_space(&mut self, name: &UserId, len: u64, limits: &Limits, effects: &mut Vec<Seen>) -> bool {
        let fits = |user: &Self, messages: &BTreeSet<Pos>| {
            messages.len() < limits.inbox_messages as usize && user.bytes(messages) + len <= limits.inbox_bytes
        };
        let least = self.holders().into_iter().map(|share| &share.owed).min_by_key(|owed| owed.len());
        let least = least.unwrap().iter().copied().collect();
        if !fits(self, &least) {
            return false;
        }
        let mut away = Vec::new();
        let last = self.messages.keys().next_back().copied();
        while !fits(self, &self.waiting()) {
            let front = self.waiting().pop_first().unwrap();
            for (id, device) in &mut self.devices {
                if device.lapsed.is_some() || !device.share.owed.contains(&front) {
                    continue;
                }
                if device.node.is_some() {
                    let lost = device.share.lose(last.unwrap(), GapReason::InboxLimit);
                    effects.push(Seen::Lapsed(name.clone(), device.node, lost));
                } else {
                    device.lapsed = Some(0);
                    away.push(id.clone());
                }
            }
        }
        let waiting = self.waiting();
        for id in away {
            let device = self.devices.get_mut(&id).unwrap();
            let lost = device.share.owed.iter().filter(|pos| !waiting.contains(pos)).count() as u64;
            device.lapsed = Some(lost);
            effects.push(Seen::Lapsed(name.clone(), None, lost));
        }
        true
    }

    /// `at`: when, and the position that its last registration has from then on.
    pub fn forget(
        &mut self,
        name: &UserId,
        id: &DeviceId,
        at: (u64, Option<Pos>),
        limits: &Limits,
        effects: &mut Vec<Seen>,
    ) {
        let Some(device) = self.devices.remove(id) else { return };
        let (now, epoch) = at;
        let until = match device.node {
            Some(node) => {
                effects.push(Seen::Superseded(node, device.last.2));
                Some(now + limits.ring_ttl_ms)
            }
            None => device.ring_until,
        };
        if let Some(until) = until {
            let (instance, attempt, own) = device.last;
            let last = (instance, attempt, epoch.unwrap_or(own));
            self.gone.insert(id.clone(), MGone { last, ring: device.ring, until });
        }
        if self.devices.is_empty() {
            self.heir = device.share;
            self.heir_gap_until = self.heir.has_gap().then(|| now + limits.device_ttl_ms);
        } else if self.holders().is_empty() {
            // All are back at the same time: what the forgotten one was owed is there for them.
            self.heir = device.share;
            let waiting: BTreeSet<Pos> = self.heir.owed.iter().copied().collect();
            for device in self.devices.values_mut() {
                let reported = device.lapsed.take().unwrap();
                let upto = device.share.owed.iter().rfind(|pos| !waiting.contains(pos)).copied();
                let lost = upto.map_or(0, |upto| device.share.lose(upto, GapReason::InboxLimit));
                if lost > reported {
                    effects.push(Seen::Lapsed(name.clone(), None, lost - reported));
                }
            }
            self.heir = Share::default();
        }
    }
}
