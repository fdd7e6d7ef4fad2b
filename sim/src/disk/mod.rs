//! A simulated machine's disk: it outlives processes, and forgets what was not synced when one dies.
//!
//! Invariant: as [`cluster::env::kv`] says, a crash drops a suffix of whole unsynced batches; how
//! long a suffix is chance. What is wrong with the disk itself is in [`faults`]. On request real sled
//! keeps the records as well ([`twin`]).

mod blobs;
mod faults;
mod kv;
#[cfg(test)]
mod tests;
pub mod twin;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use std::{io, io::ErrorKind};

use bytes::Bytes;
use cluster::env::{Blobs, Kv};
use cluster::sync::lock;

use crate::dice::Dice;
use crate::evidence::{self, Undergone};
use crate::oracle::Journal;
use crate::time;
use crate::trace::Trace;
use blobs::{Objects, SimBlobs};
pub use faults::{Excuse, Trouble, asks_to_begin_anew};
use faults::{Faults, Operation};
use kv::{Records, SimKv};
use twin::Twin;

/// A sync takes at least and at most this long, mostly; one in [`SLOW_ONE_IN`] takes up to [`SLOW`].
const SYNC: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(4));
const SLOW: Duration = Duration::from_millis(50);
const SLOW_ONE_IN: u64 = 200;
/// Looking into a file or a folder, and changing a folder, takes at least and at most this long.
const SEEK: (Duration, Duration) = (Duration::from_micros(5), Duration::from_micros(500));

/// A disk. Clones are the same disk.
#[derive(Clone)]
pub struct Disk {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    /// Which process may use it; earlier ones are dead.
    life: AtomicU64,
    records: Mutex<Records>,
    /// Real sled, which holds the same records.
    twin: Mutex<Option<Twin>>,
    objects: Mutex<Objects>,
    faults: Mutex<Faults>,
    /// Whether it was damaged, or replaced by an old copy, since it was last empty.
    spoilt: Mutex<Option<Excuse>>,
    dice: Dice,
    trace: Trace,
    /// Who follows what is written.
    journal: Journal,
}

impl Disk {
    /// An empty disk.
    pub fn new(seed: u64, name: &str, trace: Trace, journal: Journal) -> Self {
        let dice = Dice::new(seed, &format!("disk of {name}"));
        let shared = Shared {
            name: name.to_owned(),
            life: AtomicU64::new(0),
            records: Mutex::default(),
            twin: Mutex::default(),
            objects: Mutex::default(),
            faults: Mutex::default(),
            spoilt: Mutex::default(),
            dice,
            trace,
            journal,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The same, empty disk, with its records kept by real sled too. [`twin::start`] was called before.
    ///
    /// # Panics
    /// When the system has no place for it.
    pub fn on_sled(self) -> Self {
        *self.twin() = Some(Twin::new(&self.shared.name).expect("there is a place for sled"));
        self
    }

    /// Opens it for a process.
    pub fn open(&self) -> (Arc<dyn Kv>, Arc<dyn Blobs>) {
        let user = User { disk: self.clone(), life: self.shared.life.load(Ordering::Relaxed) };
        (Arc::new(SimKv(user.clone())), Arc::new(SimBlobs(user)))
    }

    /// The process that uses it dies at this instant.
    pub fn crash(&self) {
        self.end_process();
        let survivors = self.twin().as_mut().map(Twin::crash);
        let dropped = match survivors {
            None => self.records().crash(&self.shared.dice),
            Some(survivors) => self.survive(survivors),
        };
        self.shared.journal.crashed(&self.shared.name, dropped);
        self.objects().crash(&self.shared.dice);
        self.shared.trace.event("disk_crash", serde_json::json!({ "disk": self.shared.name, "batches_lost": dropped }));
    }

    /// The process that uses it ends in good order.
    pub fn close(&self) {
        self.end_process();
        let survivors = self.twin().as_mut().map(Twin::stop);
        if survivors.is_some_and(|survivors| self.survive(survivors) > 0) {
            self.broken("sled lost batches though it was closed in good order");
        }
        self.records().close();
        self.shared.journal.crashed(&self.shared.name, 0);
        self.objects().crash(&self.shared.dice);
    }

    /// What sled holds now is what there is; says how many batches are gone.
    fn survive(&self, survivors: io::Result<BTreeMap<Bytes, Bytes>>) -> u64 {
        let lost = survivors.map(|survivors| self.records().crash_to(&survivors));
        match lost {
            Ok(Some(lost)) => return lost,
            Ok(None) => self.broken("sled holds what no prefix of its batches with all that were synced is"),
            Err(error) => {
                self.broken(&format!("sled cannot be read after a crash: {error}"));
                // The run is lost, and goes on without it.
                *self.twin() = None;
                return self.records().crash(&self.shared.dice);
            }
        }
        0
    }

    /// Holds sled's answer against the simulated one.
    fn compare<T: PartialEq>(&self, sled: &io::Result<T>, simulated: &T) {
        match sled {
            Ok(answer) if answer == simulated => {}
            Ok(_) => self.broken("sled reads other records than were written"),
            Err(error) => self.broken(&format!("sled failed on a disk that does not: {error}")),
        }
    }

    fn broken(&self, text: &str) {
        self.shared.journal.broken(format!("disk of {}: {text}", self.shared.name));
    }

    fn end_process(&self) {
        self.shared.life.fetch_add(1, Ordering::Relaxed);
        self.faults().next_process();
    }

    /// Begins a trouble.
    pub fn begin_trouble(&self, trouble: Trouble) {
        self.faults().begin(trouble);
    }

    /// Ends a trouble; says whether anything was asked of the disk meanwhile that it has to do with.
    pub fn end_trouble(&self, trouble: Trouble) -> bool {
        self.faults().end(trouble)
    }

    /// How many troubles it has.
    pub fn troubles(&self) -> usize {
        self.faults().troubles()
    }

    /// Why the process that uses it may end by itself.
    pub fn excuses(&self) -> Vec<Excuse> {
        let spoilt = *self.spoilt();
        self.faults().told().iter().copied().chain(spoilt).collect()
    }

    /// Flips a bit of what is stored, anywhere; says where.
    pub fn flip_bit(&self) -> Option<String> {
        let dice = &self.shared.dice;
        let at = if dice.one_in(2) { self.records().flip_bit(dice) } else { self.objects().flip_bit(dice) };
        if at.is_some() {
            self.spoilt().get_or_insert(Excuse::Damaged);
        }
        at
    }

    /// What a copy of it holds that is made now.
    pub fn copy(&self) -> Image {
        Image { records: self.records().copy(), objects: self.objects().copy() }
    }

    /// Puts an old copy in the place of what is stored; no process uses it.
    pub fn restore(&self, copy: Image) {
        assert!(self.twin().is_none(), "old copies are not made of real sled");
        self.shared.journal.replaced(&self.shared.name, copy.records.iter());
        *self.records() = copy.records;
        *self.objects() = copy.objects;
        *self.spoilt() = Some(Excuse::OldCopy);
        evidence::note(Undergone::NewDisk);
    }

    /// Takes away a half of what is stored, if there are two, and says whether; no process uses it.
    pub fn lose(&self, half: Half) -> bool {
        if self.records().is_empty() || self.objects().is_empty() {
            return false;
        }
        match half {
            Half::Records => self.empty_records(),
            Half::Objects => *self.objects() = Objects::default(),
        }
        self.spoilt().get_or_insert(Excuse::Damaged);
        evidence::note(Undergone::NewDisk);
        true
    }

    /// Whether it was damaged, or replaced by an old copy, since it was last empty.
    pub fn is_spoilt(&self) -> bool {
        self.spoilt().is_some()
    }

    /// Its process has caught up from what an old copy held: it is as good as another.
    pub fn trust(&self) {
        *self.spoilt() = None;
    }

    /// Empties it; no process uses it.
    pub fn wipe(&self) {
        self.empty_records();
        *self.objects() = Objects::default();
        *self.spoilt() = None;
    }

    fn empty_records(&self) {
        *self.records() = Records::default();
        if let Some(Err(error)) = self.twin().as_mut().map(Twin::wipe) {
            self.broken(&format!("sled cannot begin anew: {error}"));
        }
        self.shared.journal.replaced(&self.shared.name, Records::default().iter());
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        lock(&self.shared.records)
    }

    fn twin(&self) -> MutexGuard<'_, Option<Twin>> {
        lock(&self.shared.twin)
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.shared.objects)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.shared.faults)
    }

    fn spoilt(&self) -> MutexGuard<'_, Option<Excuse>> {
        lock(&self.shared.spoilt)
    }
}

/// What a disk held at some time.
pub struct Image {
    records: Records,
    objects: Objects,
}

/// What a disk holds, by the two stores that a process has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Vote and log.
    Records,
    /// Identity and checkpoints.
    Objects,
}

/// One process's use of a disk.
#[derive(Clone)]
struct User {
    disk: Disk,
    life: u64,
}

impl User {
    fn alive(&self) -> io::Result<()> {
        if self.life == self.disk.shared.life.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(io::Error::new(ErrorKind::NotConnected, "this process is dead"))
    }

    /// What a file meets that does this.
    fn meet(&self, operation: Operation) -> io::Result<()> {
        self.alive()?;
        self.disk.faults().meet(operation)
    }

    /// What a store meets that does this, and never recovers from.
    fn meet_for_good(&self, operation: Operation) -> io::Result<()> {
        self.alive()?;
        self.disk.faults().meet_for_good(operation)
    }

    /// Takes as long as looking into a file or a folder, or changing a folder.
    async fn seek(&self) {
        let slow = self.disk.faults().slow_ms().map(Duration::from_millis).unwrap_or_default();
        let nanos = self.disk.shared.dice.between(time::nanos(SEEK.0), time::nanos(SEEK.1.max(slow)));
        time::sleep(Duration::from_nanos(nanos)).await;
    }

    /// Takes as long as a sync.
    async fn spin(&self) {
        let dice = &self.disk.shared.dice;
        let slowest = if dice.one_in(SLOW_ONE_IN) { SLOW } else { SYNC.1 };
        let slowest = self.disk.faults().slow_ms().map_or(slowest, Duration::from_millis);
        let nanos = dice.between(time::nanos(SYNC.0), time::nanos(slowest).max(time::nanos(SYNC.1)));
        time::sleep(Duration::from_nanos(nanos)).await;
    }
}
