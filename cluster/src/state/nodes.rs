//! Nodes and their generations.
//!
//! Invariant (G4): only the current generation's batches are applied, each exactly once and in
//! order; a generation's sessions end with it.

use std::collections::{BTreeMap, BTreeSet};

use super::command::{Batch, NodeUp};
use super::effect::{BatchRefusal, Effect};
use crate::id::{Boot, Epoch, Generation, NodeId};

/// What the cluster knows of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its last boot.
    pub boot: Boot,
    /// Its last incarnation within that boot.
    pub incarnation: u32,
    /// The generation that lives; `None` while the node is down.
    pub generation: Option<Generation>,
    /// The number that its next batch must have.
    pub next_seq: u64,
    /// Where clients reach it.
    pub client_url: String,
    /// The highest feature level that its build understands.
    pub feature_level: u32,
    /// Its live sessions.
    pub sessions: u64,
}

/// What a `NodeUp` means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A new incarnation.
    New,
    /// Seen before, or older than one of the same boot that was seen: it came late.
    Late,
    /// An older boot, or another with the same number: a copy of the data directory.
    Copy {
        /// The boot count that is known.
        known: u64,
    },
}

#[derive(Debug, Default)]
pub(super) struct Nodes {
    records: BTreeMap<NodeId, NodeRecord>,
    /// Live sessions of each node: what ends with its generation.
    sessions: BTreeMap<NodeId, BTreeSet<Epoch>>,
}

impl Nodes {
    pub fn get(&self, id: NodeId) -> Option<&NodeRecord> {
        self.records.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        self.records.iter().map(|(id, record)| (*id, record))
    }

    /// Takes in a record, without sessions.
    pub fn insert(&mut self, id: NodeId, record: NodeRecord) {
        self.records.insert(id, NodeRecord { sessions: 0, ..record });
    }

    /// Whether a batch may be applied now; if so it counts as applied.
    pub fn admit(&mut self, batch: &Batch) -> Result<(), BatchRefusal> {
        let record = self.records.get_mut(&batch.node).ok_or(BatchRefusal::Fenced)?;
        if record.generation != Some(batch.generation) {
            return Err(BatchRefusal::Fenced);
        }
        if batch.seq < record.next_seq {
            return Err(BatchRefusal::Repeated);
        }
        if batch.seq > record.next_seq {
            return Err(BatchRefusal::Gap { expected: record.next_seq });
        }
        record.next_seq += 1;
        Ok(())
    }

    /// What an announcement means; changes nothing.
    pub fn judge(&self, up: &NodeUp) -> Arrival {
        let Some(record) = self.records.get(&up.node) else { return Arrival::New };
        let known = record.boot.count;
        if up.boot.count < known || (up.boot.count == known && up.boot.nonce != record.boot.nonce) {
            return Arrival::Copy { known };
        }
        if up.boot == record.boot && up.incarnation <= record.incarnation {
            return Arrival::Late;
        }
        Arrival::New
    }

    /// Begins a generation; the one before has been ended.
    pub fn begin(&mut self, up: &NodeUp, generation: Generation) {
        let record = NodeRecord {
            boot: up.boot,
            incarnation: up.incarnation,
            generation: Some(generation),
            next_seq: 1,
            client_url: up.client_url.clone(),
            feature_level: up.feature_level,
            sessions: 0,
        };
        self.records.insert(up.node, record);
    }

    /// Ends the living generation, if there is one, and returns its sessions, oldest first.
    pub fn end(&mut self, id: NodeId, effects: &mut Vec<Effect>) -> BTreeSet<Epoch> {
        let Some(record) = self.records.get_mut(&id) else { return BTreeSet::new() };
        if let Some(generation) = record.generation.take() {
            effects.push(Effect::NodeDown { node: id, generation });
        }
        record.sessions = 0;
        self.sessions.remove(&id).unwrap_or_default()
    }

    /// Drops the record of a node whose generation has been ended.
    pub fn remove(&mut self, id: NodeId) {
        self.records.remove(&id);
    }

    /// A session of this node begins.
    ///
    /// # Panics
    /// When the node is not up.
    pub fn add_session(&mut self, id: NodeId, epoch: Epoch) {
        let record = self.records.get_mut(&id).filter(|record| record.generation.is_some());
        record.expect("a session's node is up").sessions += 1;
        assert!(self.sessions.entry(id).or_default().insert(epoch), "an epoch is new");
    }

    /// A session of this node ends.
    ///
    /// # Panics
    /// When there is none.
    pub fn remove_session(&mut self, id: NodeId, epoch: Epoch) {
        self.records.get_mut(&id).expect("a session's node is known").sessions -= 1;
        let sessions = self.sessions.get_mut(&id).expect("a session's node is known");
        assert!(sessions.remove(&epoch), "a session ends once");
    }
}
