//! A replica of our own: the committed log, applied once and in order by the production state
//! machine, without nodes, disks or checkpoints.
//!
//! Invariant: every node's replica equals it at the same entry, however that node came there: by
//! applying, after a restart from a checkpoint, or by a checkpoint of another node.

mod notes;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use cluster::state::{Command, State};

use super::devices::Devices;
use super::facts::{Facts, Registered};
use super::groups::GroupAccount;
use super::presence::Live;
use super::sessions::Sessions;
use super::{Committed, Violation, safety};
use crate::time;

/// Clocks go wrong by less, in per cent.
const FASTEST_PERCENT: u64 = 3;
/// Hashes of so many entries back are remembered.
const REMEMBERED: usize = 1_000;

/// See the module.
#[derive(Default)]
pub struct Reference {
    state: State,
    /// Committed and not applied.
    waiting: VecDeque<Committed>,
    /// Index of the entry applied last, commands or not.
    applied: u64,
    hashes: BTreeMap<u64, ([u8; 32], String)>,
    facts: Facts,
    /// Where each epoch is in the facts, as long as its session may live.
    sessions: HashMap<u64, usize>,
    last_nodes: HashMap<String, u64>,
    /// The sessions that live by our own account.
    account: Sessions,
    /// All nodes know that a revocation ends sessions.
    revocations_end: bool,
    /// The devices that are known by our own account.
    devices: Devices,
    broken: Vec<Violation>,
    /// Who is in which group, by what was done with it and nothing else.
    groups: GroupAccount,
    /// Client instances' attempts that were registered.
    attempts: HashSet<(u64, u64)>,
}

impl Reference {
    /// Takes in what was committed.
    pub fn committed(&mut self, entries: Vec<Committed>) {
        self.waiting.extend(entries);
    }

    /// What entries did that they may not have done, since this was asked last.
    pub fn take_broken(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.broken)
    }

    /// Index of the entry applied last.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// What the log says, as far as it was applied.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether `node` was already compared at this entry.
    pub fn has_seen(&self, node: &str, index: u64) -> bool {
        self.last_nodes.get(node) == Some(&index)
    }

    /// Compares a replica. Replicas must come in the order of their entries, so that none is passed.
    pub fn compare(&mut self, node: &str, index: u64, hash: [u8; 32]) -> Option<Violation> {
        self.last_nodes.insert(node.to_owned(), index);
        if self.applied < index {
            self.advance(index);
            if self.applied == index {
                self.hashes.insert(index, (self.state.hash(), "the log's replay".to_owned()));
            }
        }
        let (known, by) = self.hashes.entry(index).or_insert_with(|| (hash, node.to_owned()));
        let differ = *known != hash;
        let text = format!("replicas: {node} and {by} differ at entry {index}");
        while self.hashes.len() > REMEMBERED {
            self.hashes.pop_first();
        }
        differ.then(|| safety(text).at(time::now()))
    }

    /// Applies all up to this entry, as far as it is committed.
    pub fn advance(&mut self, upto: u64) {
        while self.waiting.front().is_some_and(|entry| entry.index <= upto) {
            let Committed { index, author, at, command } = self.waiting.pop_front().expect("it was seen");
            self.applied = index;
            let Some(bytes) = command else {
                self.state.note_applied(index);
                continue;
            };
            let command = Command::decode(&bytes).expect("a command of this build");
            let mut effects = Vec::new();
            self.state.apply(index, &command, &mut effects);
            self.broken.extend(self.account.entry(index, &command, &effects));
            self.devices.entry(index, &command, &effects, &mut self.facts.known);
            self.check_time(at);
            self.note_entry(index, author, at, &command, effects);
        }
        let at = |epoch| self.state.session(cluster::id::Pos(epoch)).map(|(_, _, node)| node);
        self.broken.extend(self.account.compare(self.state.totals().sessions, at));
    }

    /// Replicated time only goes as leaders' monotonic clocks do: whatever is due by it, such as a
    /// message that grows too old, may be late and never early.
    fn check_time(&mut self, at: u64) {
        let (time_ms, now_ms) = (self.state.time_ms(), at / 1_000_000);
        if time_ms > now_ms + now_ms * FASTEST_PERCENT / 100 {
            let text = format!("G1: replicated time is at {time_ms} ms after {now_ms} ms: messages expire too early");
            self.broken.push(safety(text).at(at));
        }
    }

    /// The live sessions.
    pub fn live(&mut self) -> Vec<Live> {
        let (state, facts) = (&self.state, &self.facts);
        self.sessions.retain(|&epoch, _| state.session(cluster::id::Pos(epoch)).is_some());
        let mut live: Vec<_> = self
            .sessions
            .values()
            .map(|&at| {
                let Registered { epoch, device, instance, node } = facts.registered[at].clone();
                Live { epoch, device, instance, node }
            })
            .collect();
        live.sort_by_key(|live| live.epoch);
        live
    }
}

#[cfg(test)]
mod tests {
    use cluster::id::NodeId;

    use super::*;

    fn entry(index: u64, command: Option<Command>) -> Committed {
        Committed { index, author: NodeId(1), at: 0, command: command.map(|command| command.encode()) }
    }

    fn tick(index: u64, advance_ms: u64) -> Committed {
        entry(index, Some(Command::Tick { advance_ms }))
    }

    fn hash_at(entries: &[Committed]) -> [u8; 32] {
        let mut other = Reference::default();
        other.committed(entries.to_vec());
        other.advance(u64::MAX);
        other.state.hash()
    }

    #[test]
    fn a_replica_that_differs() {
        let log = [entry(0, None), tick(1, 5), tick(2, 7)];
        let mut reference = Reference::default();
        reference.committed(log.to_vec());
        assert!(reference.compare("n0", 1, hash_at(&log[..2])).is_none());
        assert!(reference.compare("n0", 2, hash_at(&log)).is_none());
        assert!(reference.compare("n1", 1, hash_at(&log[..2])).is_none());
        let broken = reference.compare("n2", 2, hash_at(&[entry(0, None), tick(1, 6), tick(2, 7)]));
        assert!(broken.is_some_and(|broken| broken.text.contains("n2 and the log's replay differ at entry 2")));
    }

    #[test]
    fn time_that_runs_ahead() {
        let mut reference = Reference::default();
        reference.committed(vec![tick(1, 0)]);
        reference.advance(u64::MAX);
        assert!(reference.take_broken().is_empty());
        reference.committed(vec![tick(2, 7)]);
        reference.advance(u64::MAX);
        assert!(reference.take_broken()[0].text.contains("replicated time is at 7 ms after 0 ms"));
    }
}
