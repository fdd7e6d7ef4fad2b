//! A simulated machine's disk: it outlives processes, and forgets what was not synced when one dies.
//!
//! Invariant: as [`cluster::env::kv`] says, a crash drops a suffix of whole unsynced batches; how
//! long a suffix is chance. Faults of the disk itself are still to come here.

mod blobs;
mod kv;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, io::ErrorKind};

use cluster::env::{Blobs, Kv};

use crate::dice::Dice;
use crate::time;
use crate::trace::Trace;
use blobs::{Objects, SimBlobs};
use kv::{Records, SimKv};

/// A sync takes at least and at most this long, mostly; one in [`SLOW_ONE_IN`] takes up to [`SLOW`].
const SYNC: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(4));
const SLOW: Duration = Duration::from_millis(50);
const SLOW_ONE_IN: u64 = 200;

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
    objects: Mutex<Objects>,
    dice: Dice,
    trace: Trace,
}

impl Disk {
    /// An empty disk.
    pub fn new(seed: u64, name: &str, trace: Trace) -> Self {
        let dice = Dice::new(seed, &format!("disk of {name}"));
        let shared = Shared {
            name: name.to_owned(),
            life: AtomicU64::new(0),
            records: Mutex::default(),
            objects: Mutex::default(),
            dice,
            trace,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Opens it for a process.
    pub fn open(&self) -> (Arc<dyn Kv>, Arc<dyn Blobs>) {
        let user = User { disk: self.clone(), life: self.shared.life.load(Ordering::Relaxed) };
        (Arc::new(SimKv(user.clone())), Arc::new(SimBlobs(user)))
    }

    /// The process that uses it dies at this instant.
    pub fn crash(&self) {
        self.shared.life.fetch_add(1, Ordering::Relaxed);
        let dropped = self.records().crash(&self.shared.dice);
        self.objects().crash(&self.shared.dice);
        self.shared.trace.event("disk_crash", serde_json::json!({ "disk": self.shared.name, "batches_lost": dropped }));
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.shared.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.shared.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

    /// Takes as long as a disk takes.
    async fn spin(&self) {
        let dice = &self.disk.shared.dice;
        let slowest = if dice.one_in(SLOW_ONE_IN) { SLOW } else { SYNC.1 };
        let nanos = dice.between(time::nanos(SYNC.0), time::nanos(slowest));
        time::sleep(Duration::from_nanos(nanos)).await;
    }
}
