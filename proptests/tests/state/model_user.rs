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
    pub group_gap: Option<(Pos, u64, GapReason)>,
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
        self.gap.is_some() || self.group_gap.is_some()
    }

    /// Loses one message of a group, if it is owed.
    pub fn lose_of_group(&mut self, group: &GroupId, pos: Pos, reason: GapReason) -> bool {
        if !self.group_owed.remove(&(group.clone(), pos)) {
            return false;
        }
        let (seq, before, was) = self.group_gap.unwrap_or((pos, 0, reason));
        let reason = if was == GapReason::InboxLimit { was } else { reason };
        self.group_gap = Some((seq.max(pos), before + 1, reason));
        true
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

    pub fn bytes(&self, messages: &BTreeSet<Pos>) -> u64 {
        messages.iter().map(|pos| self.messages[pos].len).sum()
    }

    pub fn remembered(&self) -> bool {
        let inherited = !self.heir.owed.is_empty() || self.heir.has_gap() || !self.groups.is_empty();
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
                effects.push(Seen::Lapsed(name.clone(), lost - reported, device.node));
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
                    effects.push(Seen::Lapsed(name.clone(), lost, device.node));
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
            effects.push(Seen::Lapsed(name.clone(), lost, None));
        }
        true
    }

    pub fn forget(&mut self, name: &UserId, id: &DeviceId, now: u64, limits: &Limits, effects: &mut Vec<Seen>) {
        let Some(device) = self.devices.remove(id) else { return };
        let until = match device.node {
            Some(node) => {
                effects.push(Seen::Superseded(node, device.last.2));
                Some(now + limits.ring_ttl_ms)
            }
            None => device.ring_until,
        };
        if let Some(until) = until {
            self.gone.insert(id.clone(), MGone { last: device.last, ring: device.ring, until });
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
                    effects.push(Seen::Lapsed(name.clone(), lost - reported, None));
                }
            }
            self.heir = Share::default();
        }
    }
}
