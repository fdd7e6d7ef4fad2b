//! The naive machine's groups: each message is owed by name to every device of every member.

use std::collections::{BTreeMap, BTreeSet};

use cluster::id::{DeviceId, GroupId, MessageId, Pos, UserId};
use cluster::state::{GapReason, GroupAct, GroupOp, GroupRefusal, GroupSend, Outcome, SendRefusal};

use crate::model::Model;
use crate::seen::Seen;

#[derive(Debug, Default)]
pub struct MGroup {
    pub creator: Option<UserId>,
    pub members: BTreeSet<UserId>,
    /// Every message there ever was.
    pub messages: BTreeMap<Pos, MGroupMessage>,
}

#[derive(Debug)]
pub struct MGroupMessage {
    pub mid: MessageId,
    pub from: UserId,
    pub len: u64,
    pub stored_at: u64,
    pub acked: bool,
}

impl Model {
    pub fn group_op(&mut self, pos: Pos, by: &UserId, op: &GroupOp, effects: &mut Vec<Seen>) -> Outcome {
        let limits = self.group_limits.clone();
        let group = self.groups.entry(op.group.clone()).or_default();
        let user = self.users.get_mut(by).unwrap();
        let member = group.members.contains(by);
        let creates = op.act == GroupAct::Create;
        let refusal = match op.act {
            GroupAct::Leave => {
                if member {
                    group.members.remove(by);
                    let open = user.groups.iter().find(|(name, _, until)| *name == op.group && until.is_none());
                    let open = open.cloned().unwrap();
                    user.groups.remove(&open);
                    user.groups.insert((open.0, open.1, Some(pos)));
                    if self.written.contains(&op.group) {
                        effects.push(Seen::Wake(by.clone()));
                    }
                }
                return Outcome::Done;
            }
            GroupAct::Create if member && group.creator.as_ref() == Some(by) => return Outcome::Done,
            GroupAct::Join if member => return Outcome::Done,
            GroupAct::Create if !group.members.is_empty() => GroupRefusal::Exists,
            GroupAct::Join if group.members.is_empty() => GroupRefusal::Unknown,
            GroupAct::Join if group.members.len() >= limits.members as usize => GroupRefusal::Full,
            _ if user.groups.len() >= limits.per_user as usize => GroupRefusal::TooMany,
            _ => {
                group.members.insert(by.clone());
                user.groups.insert((op.group.clone(), pos, None));
                if creates {
                    group.creator = Some(by.clone());
                }
                return Outcome::Done;
            }
        };
        Outcome::GroupRefused(refusal)
    }

    pub fn group_send(
        &mut self,
        pos: Pos,
        (from, id): (&UserId, &DeviceId),
        send: &GroupSend,
        effects: &mut Vec<Seen>,
    ) -> Outcome {
        let mid = send.mid;
        let outcome = |result, duplicate| match result {
            Ok(()) => Outcome::Stored { mid, duplicate },
            Err(refusal) => Outcome::SendRefused { mid, refusal, duplicate },
        };
        let ring = &self.users[from].devices[id].ring;
        if let Some((_, result)) = ring.iter().find(|(known, _)| *known == mid) {
            return outcome(*result, true);
        }
        let members = self.groups.get(&send.group).map(|group| group.members.clone()).unwrap_or_default();
        let result = match members.contains(from) {
            true => Ok(()),
            false if members.is_empty() => Err(SendRefusal::UnknownGroup),
            false => Err(SendRefusal::NotMember),
        };
        if result.is_ok() {
            let len = send.body.len() as u64;
            self.make_space_in_group(&send.group, len, effects);
            let (from, stored_at) = (from.clone(), self.time_ms);
            let message = MGroupMessage { mid, from, len, stored_at, acked: false };
            self.groups.get_mut(&send.group).unwrap().messages.insert(pos, message);
            for member in &members {
                for (_, share) in self.users.get_mut(member).unwrap().shares() {
                    share.group_owed.insert((send.group.clone(), pos));
                }
            }
            self.written.insert(send.group.clone());
        }
        self.remember(from, id, mid, result);
        outcome(result, false)
    }

    /// Messages of the group that somebody is owed.
    pub fn waiting_in(&mut self, group: &GroupId) -> BTreeSet<Pos> {
        let shares = self.users.values_mut().flat_map(|user| user.shares());
        let owed = shares.flat_map(|(_, share)| share.group_owed.iter().filter(|(of, _)| of == group));
        owed.map(|(_, pos)| *pos).collect()
    }

    fn make_space_in_group(&mut self, name: &GroupId, len: u64, effects: &mut Vec<Seen>) {
        loop {
            let waiting = self.waiting_in(name);
            let bytes: u64 = waiting.iter().map(|pos| self.groups[name].messages[pos].len).sum();
            let fits = waiting.len() < self.limits.inbox_messages as usize && bytes + len <= self.limits.inbox_bytes;
            // The limits in these logs are too small for more than one to be dropped at once.
            assert!(self.limits.inbox_messages < 8 || fits);
            match waiting.first() {
                Some(pos) if !fits => self.drop_of_group(name, *pos, GapReason::InboxLimit, effects),
                _ => return,
            }
        }
    }

    fn drop_of_group(&mut self, name: &GroupId, pos: Pos, reason: GapReason, effects: &mut Vec<Seen>) {
        let old = reason == GapReason::Expired;
        for (user_name, user) in &mut self.users {
            let mut lost = false;
            for (node, share) in user.shares() {
                if share.lose_of_group(name, pos, reason) {
                    effects.push(Seen::GroupLost(old, node.filter(|_| !old), 1));
                    effects.extend(node.map(|_| Seen::Wake(user_name.clone())));
                    lost = true;
                }
            }
            if lost && user.devices.is_empty() {
                user.heir_gap_until = Some(self.time_ms + self.limits.device_ttl_ms);
            }
        }
    }

    /// Which group has the next message to expire, and when.
    pub fn due_of_group(&mut self) -> Option<(u64, GroupId)> {
        let names: Vec<GroupId> = self.groups.keys().cloned().collect();
        let oldest = names.into_iter().filter_map(|name| {
            let pos = self.waiting_in(&name).pop_first()?;
            Some((self.groups[&name].messages[&pos].stored_at + self.limits.message_ttl_ms, name))
        });
        oldest.min()
    }

    pub fn expire_of_group(&mut self, name: &GroupId, effects: &mut Vec<Seen>) {
        let oldest = self.waiting_in(name).pop_first().unwrap();
        self.drop_of_group(name, oldest, GapReason::Expired, effects);
    }
}
