//! Ordered records in memory, with an undo log back to the last sync.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::env::Kv;
use cluster::env::kv::Write;
use im_gateway::env::SledKv;

use super::User;
use super::faults::{Excuse, Operation};
use crate::coverage;
use crate::dice::Dice;
use crate::evidence::{self, Undergone};

const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 16 << 20;

/// The records of a disk.
#[derive(Default)]
pub struct Records {
    visible: BTreeMap<Bytes, Bytes>,
    /// How to take back each batch that is not durable, oldest first.
    undo: VecDeque<Vec<(Bytes, Option<Bytes>)>>,
    /// Batches that are durable.
    durable: u64,
    /// Records that fail the store's own checksum, until they are overwritten.
    damaged: BTreeSet<Bytes>,
    /// Records with a flipped bit that fool it, likewise.
    fooling: BTreeSet<Bytes>,
}

impl Records {
    fn apply(&mut self, batch: &[Write]) {
        let mut undo = Vec::with_capacity(batch.len());
        for write in batch {
            let (key, old) = match write {
                Write::Put(key, value) => (key, self.visible.insert(key.clone(), value.clone())),
                Write::Delete(key) => (key, self.visible.remove(key)),
            };
            self.damaged.remove(key);
            self.fooling.remove(key);
            undo.push((key.clone(), old));
        }
        self.undo.push_back(undo);
    }

    fn written(&self) -> u64 {
        self.durable + self.undo.len() as u64
    }

    fn make_durable(&mut self, upto: u64) {
        let more = upto.saturating_sub(self.durable);
        self.undo.drain(..usize::try_from(more).expect("batches fit into memory"));
        self.durable = self.durable.max(upto);
    }

    /// All that was written is there when it is opened again.
    pub fn close(&mut self) {
        self.make_durable(self.written());
    }

    /// All of them.
    pub fn is_empty(&self) -> bool {
        self.visible.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.visible.iter()
    }

    /// What a copy of the disk holds, made between two batches.
    pub fn copy(&self) -> Self {
        let (damaged, fooling) = (self.damaged.clone(), self.fooling.clone());
        Self { visible: self.visible.clone(), damaged, fooling, ..Self::default() }
    }

    /// Flips a bit somewhere; says where. The store's checksum finds it, or is fooled.
    pub fn flip_bit(&mut self, dice: &Dice) -> Option<String> {
        let at = dice.between(0, (self.visible.len() as u64).checked_sub(1)?);
        let (key, value) = self.visible.iter_mut().nth(at as usize)?;
        let name = String::from_utf8_lossy(key).into_owned();
        if value.is_empty() || dice.one_in(2) {
            self.damaged.insert(key.clone());
            evidence::note(Undergone::Flip);
            return Some(format!("{name}, which the store finds"));
        }
        self.fooling.insert(key.clone());
        super::blobs::flip(value, dice);
        Some(name)
    }

    /// Drops some of the batches that are not durable, the last ones; says how many.
    pub fn crash(&mut self, dice: &Dice) -> u64 {
        let lost = dice.between(0, self.undo.len() as u64);
        (0..lost).for_each(|_| self.take_back());
        // What is there at the next start has been read from the disk.
        self.make_durable(self.written());
        lost
    }

    /// Drops just so many of the batches that are not durable that these records are left; says how
    /// many, or `None` when there is no such number.
    pub fn crash_to(&mut self, left: &BTreeMap<Bytes, Bytes>) -> Option<u64> {
        let mut lost = 0;
        while self.visible != *left {
            if self.undo.is_empty() {
                return None;
            }
            self.take_back();
            lost += 1;
        }
        self.make_durable(self.written());
        Some(lost)
    }

    fn take_back(&mut self) {
        for (key, old) in self.undo.pop_back().into_iter().flatten().rev() {
            match old {
                Some(value) => self.visible.insert(key, value),
                None => self.visible.remove(&key),
            };
        }
    }
}

/// `Kv` of one process.
pub struct SimKv(pub User);

impl SimKv {
    /// A record that was found, unless it is damaged.
    fn found(&self, records: &Records, record: (&Bytes, &Bytes)) -> io::Result<(Bytes, Bytes)> {
        let is_damaged = records.damaged.contains(record.0);
        if is_damaged || records.fooling.contains(record.0) {
            coverage::reached("a flipped bit was read");
        }
        if is_damaged {
            let mut faults = self.0.disk.faults();
            faults.tell(Excuse::Damaged);
            let text = "a stored record is corrupt: its checksum does not match";
            faults.fail(ErrorKind::InvalidData, text.to_owned());
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        Ok((record.0.clone(), record.1.clone()))
    }

    /// Real sled, where there is one, must answer the same.
    fn hold_against<T, Q>(&self, simulated: &T, question: Q)
    where
        T: PartialEq + Send + 'static,
        Q: FnOnce(&SledKv) -> io::Result<T> + Send + 'static,
    {
        if let Some(twin) = self.0.disk.twin().as_ref() {
            self.0.disk.compare(&twin.ask(question), simulated);
        }
    }
}

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

fn bounds<'a>(from: &'a [u8], to: &'a [u8]) -> Option<Bounds<'a>> {
    (from < to).then_some((Bound::Included(from), Bound::Excluded(to)))
}

#[async_trait]
impl Kv for SimKv {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.0.meet_for_good(Operation::Read)?;
        let records = self.0.disk.records();
        let found = records.visible.get_key_value(key).map(|record| self.found(&records, record));
        let found = found.transpose()?.map(|(_, value)| value);
        let key = key.to_vec();
        self.hold_against(&found, move |sled| sled.get(&key));
        Ok(found)
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        self.0.meet_for_good(Operation::Read)?;
        let Some(bounds) = bounds(from, to) else { return Ok(Vec::new()) };
        let records = self.0.disk.records();
        let found = records.visible.range::<[u8], _>(bounds).take(limit);
        let found = found.map(|record| self.found(&records, record)).collect::<io::Result<Vec<_>>>()?;
        let (from, to) = (from.to_vec(), to.to_vec());
        self.hold_against(&found, move |sled| sled.range(&from, &to, limit));
        Ok(found)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
        self.0.meet_for_good(Operation::Read)?;
        let Some(bounds) = bounds(from, to) else { return Ok(None) };
        let records = self.0.disk.records();
        let found = records.visible.range::<[u8], _>(bounds).next_back();
        let found = found.map(|record| self.found(&records, record)).transpose()?;
        let (from, to) = (from.to_vec(), to.to_vec());
        self.hold_against(&found, move |sled| sled.last(&from, &to));
        Ok(found)
    }

    fn write(&self, batch: &[Write]) -> io::Result<()> {
        self.0.meet_for_good(Operation::Write)?;
        for write in batch {
            let (key, len) = match write {
                Write::Put(key, value) => (key, value.len()),
                Write::Delete(key) => (key, 0),
            };
            if key.len() > MAX_KEY || len > MAX_VALUE {
                return Err(io::Error::new(ErrorKind::InvalidInput, "a key or value beyond the store's limits"));
            }
            let tag = [matches!(write, Write::Put(..)).into(), len as u64, u64::from(crc32fast::hash(key))];
            self.0.disk.shared.trace.detail(&self.0.disk.shared.name, &tag, b"");
        }
        if let Some(twin) = self.0.disk.twin().as_ref() {
            self.0.disk.compare(&twin.write(batch), &());
        }
        self.0.disk.records().apply(batch);
        self.0.disk.shared.journal.written(&self.0.disk.shared.name, batch);
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        self.0.meet_for_good(Operation::Read)?;
        let upto = self.0.disk.records().written();
        self.0.spin().await;
        self.0.meet_for_good(Operation::Sync)?;
        if let Some(twin) = self.0.disk.twin().as_ref() {
            self.0.disk.compare(&twin.sync(), &());
        }
        self.0.disk.records().make_durable(upto);
        self.0.disk.shared.journal.synced(&self.0.disk.shared.name, upto);
        Ok(())
    }
}
