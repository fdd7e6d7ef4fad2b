//! What happened, as JSON lines: the same seed gives the same bytes.
//!
//! Each line carries a digest over everything below it as well (every piece of a stream, every write
//! to a disk), so a difference too small for a line of its own shows at the next one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use cluster::sync::lock;
use serde_json::{Value, json};

use crate::time;

/// The first line in which two trace files differ: its number, and both versions.
///
/// # Errors
/// When a file cannot be read.
pub fn difference(a: &Path, b: &Path) -> io::Result<Option<(usize, String, String)>> {
    let (a, b) = (fs::read(a)?, fs::read(b)?);
    if a == b {
        return Ok(None);
    }
    let (mut a, mut b) = (a.split(|&byte| byte == b'\n'), b.split(|&byte| byte == b'\n'));
    let mut number = 0;
    loop {
        number += 1;
        let (a, b) = (a.next(), b.next());
        if a != b || a.is_none() {
            let text = |line: Option<&[u8]>| String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
            return Ok(Some((number, text(a), text(b))));
        }
    }
}

/// A line, kept for the report.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// When, in ns.
    pub at: u64,
    /// What.
    pub event: String,
    /// Its fields.
    pub of: Value,
}

/// A run's trace.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    out: Option<BufWriter<File>>,
    /// All lines, or only those of faults and deaths.
    recorded: Vec<Recorded>,
    keep_all: bool,
    digest: u32,
    lines: u64,
}

impl Trace {
    /// Writes to the file `path`, if there is one, replacing it; remembers all lines if `record`.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn new(path: Option<&Path>, record: bool) -> io::Result<Self> {
        let out = path.map(File::create).transpose()?.map(BufWriter::new);
        Ok(Self(Arc::new(Mutex::new(Inner { out, keep_all: record, ..Inner::default() }))))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }

    /// Counts a detail into the digest.
    pub fn detail(&self, what: &str, numbers: &[u64], bytes: &[u8]) {
        let mut inner = self.lock();
        let mut hash = crc32fast::Hasher::new_with_initial(inner.digest);
        hash.update(what.as_bytes());
        hash.update(&time::now().to_le_bytes());
        numbers.iter().for_each(|number| hash.update(&number.to_le_bytes()));
        hash.update(bytes);
        inner.digest = hash.finalize();
    }

    /// Writes a line.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn event(&self, what: &str, fields: Value) {
        self.lazy(what, || fields);
    }

    /// Writes a line whose fields are only made when somebody wants them.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn lazy(&self, what: &str, fields: impl FnOnce() -> Value) {
        let mut inner = self.lock();
        inner.lines += 1;
        let keep = inner.keep_all || matches!(what, "fault" | "kill");
        if inner.out.is_none() && !keep {
            return;
        }
        let (at, of) = (time::now(), fields());
        let digest = format!("{:08x}", inner.digest);
        if let Some(out) = &mut inner.out {
            let line = json!({ "t_us": at / 1000, "event": what, "digest": digest, "of": of });
            writeln!(out, "{line}").expect("the trace file can be written");
        }
        if keep {
            inner.recorded.push(Recorded { at, event: what.to_owned(), of });
        }
    }

    /// The lines so far: all, if they are remembered, and those of faults and deaths in any case.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.lock().recorded.clone()
    }

    /// Everything is in the file; returns how many lines.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn finish(&self) -> u64 {
        let mut inner = self.lock();
        if let Some(out) = &mut inner.out {
            out.flush().expect("the trace file can be written");
        }
        inner.lines
    }
}
