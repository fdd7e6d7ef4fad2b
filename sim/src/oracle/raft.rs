//! Raft's invariants, held against every write of every node's log, vote and commit position, as
//! they stand on the simulated disks. No node is asked: what a crash would leave is what counts.
//!
//! - Election safety: nobody appends as a leader whose election is not on the disks of a quorum;
//!   a vote never goes back. (Leaders are numbered by term *and* node: two may be elected in one term,
//!   one after the other, and the later one's number is higher.)
//! - Log matching: one leader and index, one entry, and one entry before it.
//! - Nothing is committed that is not on the disks of a quorum, nothing committed is replaced or deleted.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use cluster::env::kv::Write;
use cluster::id::NodeId;
use cluster::raft::{Entry, EntryPayload, LeaderId, LogId, LogRecord, Vote, entry_index, read_record};
use cluster::sync::lock;

use super::quorum::Config;
use super::{Violation, safety};
use crate::coverage;
use crate::time;

/// Entries of which all versions are remembered.
const REMEMBERED: usize = 50_000;

/// Follows the disks of all nodes. Clones are the same.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Raft>>);

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Raft> {
        lock(&self.0)
    }

    /// The node whose disk this is, once that is known.
    pub fn identify(&self, disk: &str, node: NodeId) {
        self.lock().disk(disk).node = Some(node);
    }

    /// A batch was written, not durably yet.
    pub fn written(&self, disk: &str, batch: &[Write]) {
        let steps = batch.iter().filter_map(Step::read).collect();
        self.lock().written(disk, steps);
    }

    /// The first `upto` batches ever written are durable.
    pub fn synced(&self, disk: &str, upto: u64) {
        self.lock().synced(disk, upto);
    }

    /// The last `lost` batches are gone; what is left is durable.
    pub fn crashed(&self, disk: &str, lost: u64) {
        self.lock().crashed(disk, lost);
    }

    /// The disk holds these records now, durably, whatever it held before.
    pub fn replaced<'a>(&self, disk: &str, records: impl Iterator<Item = (&'a Bytes, &'a Bytes)>) {
        let steps = records.filter_map(|(key, value)| Step::read(&Write::Put(key.clone(), value.clone()))).collect();
        self.lock().replaced(disk, steps);
    }

    /// Whether the node with this disk was sent a checkpoint at or after this moment, in ns.
    pub fn was_sent_a_checkpoint(&self, disk: &str, since: u64) -> bool {
        self.lock().disk(disk).installed_at.is_some_and(|at| at >= since)
    }

    /// Index up to which the log is known to be committed, and was on the disks of a quorum then.
    pub fn committed(&self) -> u64 {
        self.lock().committed_upto()
    }

    /// Entries that were committed since this was asked last.
    pub fn take_committed(&self) -> Vec<Committed> {
        std::mem::take(&mut self.lock().fresh)
    }

    /// Notes that a store broke its contract.
    pub fn broken(&self, text: String) {
        self.lock().broken.push(safety(text).at(time::now()));
    }

    /// What was broken since this was asked last.
    pub fn take_broken(&self) -> Vec<Violation> {
        std::mem::take(&mut self.lock().broken)
    }
}

/// A committed entry.
#[derive(Debug, Clone)]
pub struct Committed {
    pub index: u64,
    /// The leader that made it.
    pub author: NodeId,
    /// When it was known to be committed, in ns.
    pub at: u64,
    /// Its command's bytes, if it is one.
    pub command: Option<Bytes>,
}

/// One write to a disk.
pub(super) enum Step {
    Put(LogRecord),
    Delete(u64),
}

impl Step {
    fn read(write: &Write) -> Option<Self> {
        match write {
            Write::Put(key, value) => read_record(key, value).ok()?.map(Self::Put),
            Write::Delete(key) => entry_index(key).map(Self::Delete),
        }
    }
}

/// A change to what a disk holds.
enum Change {
    Entry(u64, LeaderId),
    Vote(Vote),
    Purged(LogId),
    Delete(u64),
}

/// What a disk holds.
#[derive(Clone, Default)]
struct View {
    entries: BTreeMap<u64, LeaderId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

impl View {
    fn apply(&mut self, change: &Change) {
        match *change {
            Change::Entry(index, leader) => drop(self.entries.insert(index, leader)),
            Change::Vote(vote) => self.vote = Some(vote),
            Change::Purged(upto) => self.purged = Some(upto),
            Change::Delete(index) => drop(self.entries.remove(&index)),
        }
    }

    fn has_purged(&self, index: u64) -> bool {
        self.purged.is_some_and(|purged| index <= purged.index)
    }

    fn holds(&self, index: u64, leader: LeaderId) -> bool {
        self.has_purged(index) || self.entries.get(&index) == Some(&leader)
    }

    /// Who made the entry at `index`, as far as this disk knows.
    fn leader_at(&self, index: u64) -> Option<LeaderId> {
        let purged = self.purged.filter(|purged| purged.index == index).map(|purged| purged.leader_id);
        self.entries.get(&index).copied().or(purged)
    }
}

#[derive(Default)]
struct DiskLog {
    node: Option<NodeId>,
    visible: View,
    durable: View,
    /// Changes of each batch that is not durable, oldest first.
    pending: VecDeque<Vec<Change>>,
    /// Batches that are.
    durable_batches: u64,
    /// What it held until it was replaced, and may have acknowledged then; and whose it was.
    before: Option<(Option<NodeId>, View)>,
    /// When it lost a log to a checkpoint of another node, last.
    installed_at: Option<u64>,
}

impl DiskLog {
    /// Whose it is, and whose it was before it was replaced, where that one's log fits.
    fn nodes(&self, fits: impl Fn(&View) -> bool) -> impl Iterator<Item = Option<NodeId>> {
        let now = fits(&self.durable).then_some(self.node);
        let before = self.before.as_ref().filter(|(_, log)| fits(log)).map(|(node, _)| *node);
        now.into_iter().chain(before)
    }

    fn batches(&self) -> u64 {
        self.durable_batches + self.pending.len() as u64
    }
}

/// A version of an entry.
struct Known {
    leader: LeaderId,
    before: Option<LeaderId>,
    crc: u32,
    command: Option<Bytes>,
}

/// What was decided at an index.
#[derive(Clone, Copy)]
struct Decided {
    /// The leader that made the entry.
    author: LeaderId,
    /// The leader whom the first node that knew of it followed: the one that committed it, or a
    /// later one. From it on, whoever leads has the entry; one between `author` and it may not.
    under: LeaderId,
}

/// See the module.
#[derive(Default)]
pub(super) struct Raft {
    disks: BTreeMap<String, DiskLog>,
    known: BTreeMap<u64, Vec<Known>>,
    /// From index 0.
    committed: Vec<Decided>,
    fresh: Vec<Committed>,
    memberships: BTreeMap<(u64, LeaderId), Config>,
    /// On whose disks the election of each leader is.
    elected: BTreeMap<LeaderId, BTreeSet<String>>,
    led: BTreeSet<LeaderId>,
    pub(super) broken: Vec<Violation>,
}

impl Raft {
    fn disk(&mut self, name: &str) -> &mut DiskLog {
        if !self.disks.contains_key(name) {
            self.disks.insert(name.to_owned(), DiskLog::default());
        }
        self.disks.get_mut(name).expect("it was inserted")
    }

    fn broken(&mut self, text: String) {
        self.broken.push(safety(format!("raft: {text}")).at(time::now()));
    }

    fn committed_upto(&self) -> u64 {
        (self.committed.len() as u64).saturating_sub(1)
    }

    /// Who made the committed entry at `index`.
    fn author(&self, index: u64) -> Option<LeaderId> {
        self.committed.get(index as usize).map(|decided| decided.author)
    }

    pub(super) fn written(&mut self, disk: &str, steps: Vec<Step>) {
        let changes = steps.into_iter().filter_map(|step| self.step(disk, step)).collect();
        self.disk(disk).pending.push_back(changes);
    }

    pub(super) fn synced(&mut self, disk: &str, upto: u64) {
        let log = self.disk(disk);
        let mut votes = Vec::new();
        while log.durable_batches < upto {
            let Some(changes) = log.pending.pop_front() else { break };
            log.durable_batches += 1;
            for change in changes {
                log.durable.apply(&change);
                if let Change::Vote(vote) = change {
                    votes.push(vote.leader_id);
                }
            }
        }
        for leader in votes {
            self.elected.entry(leader).or_default().insert(disk.to_owned());
        }
    }

    pub(super) fn crashed(&mut self, disk: &str, lost: u64) {
        if lost > 0 {
            coverage::reached("a crash lost writes that were not synced");
        }
        let upto = self.disk(disk).batches().saturating_sub(lost);
        self.synced(disk, upto);
        let log = self.disk(disk);
        log.pending.clear();
        log.visible = log.durable.clone();
    }

    fn replaced(&mut self, disk: &str, steps: Vec<Step>) {
        let log = self.disk(disk);
        let old = std::mem::take(log);
        log.before = Some((old.node, old.durable));
        for step in steps {
            let change = match step {
                Step::Put(LogRecord::Entry(entry)) => Change::Entry(entry.log_id.index, entry.log_id.leader_id),
                Step::Put(LogRecord::Vote(vote)) => Change::Vote(vote),
                Step::Put(LogRecord::Purged(upto)) => Change::Purged(upto),
                Step::Put(LogRecord::Committed(_)) | Step::Delete(_) => continue,
            };
            log.durable.apply(&change);
        }
        log.visible = log.durable.clone();
    }

    fn step(&mut self, disk: &str, step: Step) -> Option<Change> {
        let change = match step {
            Step::Put(LogRecord::Entry(entry)) => self.append(disk, entry),
            Step::Put(LogRecord::Vote(vote)) => {
                if let Some(before) =
                    self.disk(disk).visible.vote.filter(|before| vote.partial_cmp(before).is_none_or(Ordering::is_lt))
                {
                    self.broken(format!("{disk} votes for {} after {}", vote.leader_id, before.leader_id));
                }
                Change::Vote(vote)
            }
            Step::Put(LogRecord::Purged(upto)) => {
                let log = self.disk(disk);
                // What it never had went with a checkpoint that it was sent.
                if log.visible.entries.last_key_value().is_none_or(|(last, _)| *last < upto.index) {
                    log.installed_at = Some(time::now());
                    coverage::reached("a replica was sent a checkpoint");
                }
                Change::Purged(upto)
            }
            Step::Put(LogRecord::Committed(upto)) => {
                self.claim(disk, upto);
                return None;
            }
            Step::Delete(index) => {
                self.delete(disk, index);
                Change::Delete(index)
            }
        };
        self.disk(disk).visible.apply(&change);
        Some(change)
    }

    fn append(&mut self, disk: &str, entry: Entry) -> Change {
        let LogId { leader_id: leader, index } = entry.log_id;
        let before = index.checked_sub(1).and_then(|before| self.disk(disk).visible.leader_at(before));
        let (crc, command) = match &entry.payload {
            EntryPayload::Normal(payload) => (crc32fast::hash(&payload.0), Some(payload.0.clone())),
            EntryPayload::Membership(membership) => {
                self.memberships.insert((index, leader), membership.get_joint_config().clone());
                (1, None)
            }
            EntryPayload::Blank => (0, None),
        };
        self.match_known(disk, Known { leader, before, crc, command }, index);
        if index > 0 && self.led.insert(leader) {
            if self.led.len() > 2 {
                coverage::reached("a leader was replaced");
            }
            self.check_election(disk, leader, index);
        }
        if let Some(Decided { author, under }) = self.committed.get(index as usize).copied()
            && author != leader
        {
            // A leader that was replaced and does not know may still write what it has, its own or older, to who
            // does not know either.
            let vote = self.disk(disk).visible.vote.map(|vote| vote.leader_id);
            let unaware = vote.is_some_and(|vote| leader <= vote && vote < under);
            if !unaware {
                self.broken(format!(
                    "{disk} has {leader}'s entry at {index}, where another one is committed: {author}'s, under {under}; its vote is {vote:?}"
                ));
            }
        }
        Change::Entry(index, leader)
    }

    /// Log matching.
    fn match_known(&mut self, disk: &str, new: Known, index: u64) {
        let versions = self.known.entry(index).or_default();
        let Some(old) = versions.iter_mut().find(|old| old.leader == new.leader) else {
            versions.push(new);
            while self.known.len() > REMEMBERED {
                self.known.pop_first();
            }
            return;
        };
        let same_before = old.before.is_none() || new.before.is_none() || old.before == new.before;
        let same = old.crc == new.crc && same_before;
        old.before = old.before.or(new.before);
        if !same {
            self.broken(format!("{disk} has another entry at {index} of {}, or another before it", new.leader));
        }
    }

    /// Election safety: the first entry of a leader.
    fn check_election(&mut self, disk: &str, leader: LeaderId, index: u64) {
        let none = BTreeSet::new();
        let voters = self.elected.get(&leader).unwrap_or(&none);
        let configs = self.configs(disk, index - 1);
        let counted = self.disks.iter().filter(|(name, _)| voters.contains(*name));
        let counted: Vec<_> = counted.flat_map(|(_, log)| log.nodes(|_| true)).collect();
        if !configs.is_empty() && !is_quorum(&configs, &counted) {
            let voters = voters.clone();
            self.broken(format!("{leader} leads by the durable votes of {voters:?} only"));
        }
    }

    /// The memberships that may decide on the entry at `index`, as the log on `disk` has them: the
    /// last one up to it, and all after it.
    fn configs(&self, disk: &str, index: u64) -> Vec<&Config> {
        let Some(log) = self.disks.get(disk) else { return Vec::new() };
        let in_log = |at: &u64, leader: &LeaderId| log.visible.holds(*at, *leader) || self.author(*at) == Some(*leader);
        let mut configs = Vec::new();
        for ((at, leader), config) in &self.memberships {
            if in_log(at, leader) {
                if *at <= index {
                    configs.clear();
                }
                configs.push(config);
            }
        }
        configs
    }

    /// A node says that the log is committed up to here.
    fn claim(&mut self, disk: &str, upto: LogId) {
        if let Some(leader) = self.author(upto.index) {
            if leader != upto.leader_id {
                self.broken(format!("{disk} commits {upto}, where {leader}'s entry is committed"));
            }
            return;
        }
        let under = self.disk(disk).visible.vote.map_or(upto.leader_id, |vote| vote.leader_id);
        for index in self.committed.len() as u64..=upto.index {
            let Some(leader) = self.disk(disk).visible.leader_at(index) else {
                return self.broken(format!("{disk} commits up to {upto} and has no entry {index}"));
            };
            let configs = self.configs(disk, index);
            let holds = |log: &View| log.holds(index, leader);
            let counted: Vec<_> = self.disks.values().flat_map(|log| log.nodes(holds)).collect();
            if !configs.is_empty() && !is_quorum(&configs, &counted) {
                let on = self.disks.iter().filter(|(_, log)| log.nodes(holds).next().is_some());
                let on: Vec<_> = on.map(|(name, _)| name.clone()).collect();
                self.broken(format!("G1: {disk} commits entry {index}, which is only on the disks of {on:?}"));
            }
            self.committed.push(Decided { author: leader, under });
            let known =
                self.known.get(&index).and_then(|versions| versions.iter().find(|known| known.leader == leader));
            let command = known.and_then(|known| known.command.clone());
            self.fresh.push(Committed { index, author: leader.node_id, at: time::now(), command });
        }
        let last = self.disk(disk).visible.leader_at(upto.index);
        if last != Some(upto.leader_id) {
            self.broken(format!("{disk} commits {upto} and has another entry there"));
        }
    }

    /// Committed entries leave a log only with what is purged.
    fn delete(&mut self, disk: &str, index: u64) {
        let view = &self.disk(disk).visible;
        let (purged, leader) = (view.has_purged(index), view.entries.get(&index).copied());
        if !purged && index as usize >= self.committed.len() {
            coverage::reached("an entry that was not committed was replaced");
        }
        if !purged && leader.is_some() && leader == self.author(index) {
            self.broken(format!("{disk} deletes the committed entry {index}"));
        }
    }
}

/// Whether these nodes are a quorum of any of the memberships.
fn is_quorum(configs: &[&Config], counted: &[Option<NodeId>]) -> bool {
    configs.iter().any(|config| super::quorum::reached(config, counted))
}

#[cfg(test)]
mod tests;
