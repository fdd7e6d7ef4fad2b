//! Real sled beside a disk's records, as the shipped store uses it: it is given every batch and every
//! sync, answers every read, and must answer as the simulated records do. When the process dies, what
//! the system's files hold at that instant is opened again, and must be a prefix of the batches.
//!
//! Invariant: sled's threads and the simulator's clock never meet. All of it runs on one thread that
//! the simulation knows nothing of, and the simulation waits for it, in no virtual time.
//!
//! Unlike the rest of a run, how much of what was not synced survives is not a function of the seed:
//! sled's own threads decide.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::{env, fs, io, thread};

use bytes::Bytes;
use cluster::env::Kv;
use cluster::env::kv::Write;
use cluster::sync;
use im_gateway::env::{SledKv, lock};

/// A file system in memory, where there is one: syncs reach it as they do another, and take no time.
const MEMORY: &str = "/dev/shm";
/// More than any record's key.
const LAST: [u8; 257] = [0xff; 257];

/// The store of one disk.
pub struct Twin {
    /// Holds a folder for each of the disk's processes in turn.
    folder: PathBuf,
    process: u64,
    /// `None` only while another is opened.
    store: Option<Arc<SledKv>>,
}

impl Twin {
    /// An empty store for the disk of this name.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(disk: &str) -> io::Result<Self> {
        let mut twin = Self { folder: folder().join(disk), process: 0, store: None };
        twin.store = Some(twin.open()?);
        Ok(twin)
    }

    fn path(&self) -> PathBuf {
        self.folder.join(self.process.to_string())
    }

    fn open(&self) -> io::Result<Arc<SledKv>> {
        let path = self.path();
        elsewhere(move || {
            let lock = lock(&path).map_err(io::Error::other)?;
            SledKv::open(&path.join("records"), Arc::new(lock)).map(Arc::new).map_err(io::Error::other)
        })
    }

    fn store(&self) -> &Arc<SledKv> {
        self.store.as_ref().expect("a store is open between two calls")
    }

    /// Asks the store.
    pub fn ask<T: Send + 'static>(&self, question: impl FnOnce(&SledKv) -> T + Send + 'static) -> T {
        let store = self.store().clone();
        elsewhere(move || question(&store))
    }

    /// Gives it a batch.
    ///
    /// # Errors
    /// As [`Kv::write`].
    pub fn write(&self, batch: &[Write]) -> io::Result<()> {
        let batch = batch.to_vec();
        self.ask(move |store| store.write(&batch))
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// As [`Kv::sync`].
    pub fn sync(&self) -> io::Result<()> {
        self.ask(|store| pollster::block_on(store.sync()))
    }

    /// The process dies at this instant: what it has handed to the system is all that there is. Says
    /// what the store holds when it is opened again.
    ///
    /// # Errors
    /// A store that cannot be opened, or read.
    pub fn crash(&mut self) -> io::Result<BTreeMap<Bytes, Bytes>> {
        let old = self.path();
        self.process += 1;
        let new = self.path();
        copy(&old.join("records"), &new.join("records"))?;
        self.close();
        fs::remove_dir_all(old)?;
        self.reopen()
    }

    /// The process ends in good order. Says what the store holds when it is opened again.
    ///
    /// # Errors
    /// As [`Self::crash`].
    pub fn stop(&mut self) -> io::Result<BTreeMap<Bytes, Bytes>> {
        self.close();
        self.reopen()
    }

    /// Empties it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn wipe(&mut self) -> io::Result<()> {
        self.close();
        fs::remove_dir_all(self.path())?;
        self.store = Some(self.open()?);
        Ok(())
    }

    fn close(&mut self) {
        let store = self.store.take();
        elsewhere(move || drop(store));
    }

    fn reopen(&mut self) -> io::Result<BTreeMap<Bytes, Bytes>> {
        self.store = Some(self.open()?);
        let all = self.ask(|store| store.range(b"", &LAST, usize::MAX))?;
        Ok(all.into_iter().collect())
    }
}

/// Where all stores of this run are.
fn folder() -> PathBuf {
    let memory = Path::new(MEMORY);
    let base = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
    base.join(format!("im-gateway-sim-{}", std::process::id()))
}

/// Copies a folder as it is on the system now.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

type Work = Box<dyn FnOnce() + Send>;

/// Runs `work` on the thread that the simulation knows nothing of.
fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, answer) = mpsc::channel();
    let work: Work = Box::new(move || {
        // Whoever asked waits.
        let _ = done.send(work());
    });
    let thread = THREAD.get().expect("the thread was started before the run");
    let sent = sync::lock(thread).send(work);
    sent.expect("the thread lives as long as the process");
    answer.recv().expect("the work does not panic")
}

static THREAD: OnceLock<Mutex<mpsc::Sender<Work>>> = OnceLock::new();

/// Starts the thread; before the run, which may start none.
pub fn start() {
    THREAD.get_or_init(|| {
        let (sender, work) = mpsc::channel::<Work>();
        // Outside of any run, which it outlives.
        #[allow(clippy::disallowed_methods)]
        thread::spawn(move || work.into_iter().for_each(|work| work()));
        Mutex::new(sender)
    });
}

/// Removes the files; once the run is over.
pub fn clear() {
    // What is left of them is in memory, or in a folder for such things.
    let _ = fs::remove_dir_all(folder());
}
