//! What is wrong with a disk, and what its process was told of it.
//!
//! Invariant: a store that failed once fails for the rest of its process's life, as the real one
//! does: nobody can know what an operation that failed has left behind.

use std::collections::BTreeSet;
use std::io;

use crate::coverage;
use crate::evidence::{self, Undergone};

/// A trouble that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Syncs fail; reads and writes do not.
    SyncFails,
    /// Whatever touches the disk fails.
    Fails,
    /// Nothing can be written.
    Full,
    /// Whatever waits for the disk takes up to so many milliseconds.
    SlowMs(u64),
}

impl Trouble {
    /// The error that an operation meets, by the system's number, and what it excuses.
    fn error(self, operation: Operation) -> Option<(Excuse, i32)> {
        match (self, operation) {
            (Self::Fails, _) | (Self::SyncFails, Operation::Sync) => Some((Excuse::Failed, EIO)),
            (Self::Full, Operation::Write | Operation::Sync) => Some((Excuse::Full, ENOSPC)),
            _ => None,
        }
    }
}

/// A trouble, while it lasts.
struct Lasting {
    trouble: Trouble,
    /// Whether the disk was asked for something that it has to do with.
    asked: bool,
}

/// Why a process may end by itself. What it then says must name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Excuse {
    /// The disk returned an error.
    Failed,
    /// The disk was full.
    Full,
    /// Bits were flipped on it.
    Damaged,
    /// It is an old copy.
    OldCopy,
}

impl Excuse {
    /// Whether a node's last words tell an operator what is the matter.
    pub fn is_named_by(self, words: &str) -> bool {
        match self {
            Self::Failed => words.contains("Input/output error"),
            Self::Full => words.contains("No space left"),
            Self::Damaged => asks_to_begin_anew(words) && (words.contains("damaged") || words.contains("corrupt")),
            Self::OldCopy => asks_to_begin_anew(words) && words.contains("old copy"),
        }
    }
}

/// Whether a node's last words ask the operator to empty its disk.
pub fn asks_to_begin_anew(words: &str) -> bool {
    words.contains("data directory") && (words.contains("empty") || words.contains("as a new"))
}

/// What an operation does with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Sync,
}

/// A disk's troubles.
#[derive(Default)]
pub struct Faults {
    troubles: Vec<Lasting>,
    /// What the present process was told.
    told: BTreeSet<Excuse>,
    /// How the store failed for the present process.
    failed: Option<(io::ErrorKind, String)>,
}

impl Faults {
    /// Adds a trouble.
    pub fn begin(&mut self, trouble: Trouble) {
        self.troubles.push(Lasting { trouble, asked: false });
    }

    /// Ends a trouble; says whether the disk was asked for anything meanwhile that it has to do with.
    pub fn end(&mut self, trouble: Trouble) -> bool {
        let at = self.troubles.iter().position(|lasting| lasting.trouble == trouble);
        at.is_some_and(|at| self.troubles.swap_remove(at).asked)
    }

    /// How many troubles there are.
    pub fn troubles(&self) -> usize {
        self.troubles.len()
    }

    /// Another process has the disk.
    pub fn next_process(&mut self) {
        self.told.clear();
        self.failed = None;
    }

    /// Notes what the process is about to meet.
    pub fn tell(&mut self, excuse: Excuse) {
        self.told.insert(excuse);
    }

    /// What the present process was told.
    pub fn told(&self) -> &BTreeSet<Excuse> {
        &self.told
    }

    /// How long who waits for the disk now does so at most, in milliseconds, if that is a trouble.
    pub fn slow_ms(&mut self) -> Option<u64> {
        let mut slowest: Option<u64> = None;
        for lasting in &mut self.troubles {
            if let Trouble::SlowMs(most) = lasting.trouble {
                lasting.asked = true;
                evidence::note(Undergone::Trouble);
                slowest = slowest.max(Some(most));
            }
        }
        slowest
    }

    /// The error that an operation meets.
    pub fn meet(&mut self, operation: Operation) -> io::Result<()> {
        for lasting in &mut self.troubles {
            lasting.asked |= lasting.trouble.error(operation).is_some();
        }
        let met = self.troubles.iter().find_map(|lasting| lasting.trouble.error(operation));
        let Some((excuse, code)) = met else { return Ok(()) };
        self.told.insert(excuse);
        coverage::reached("a disk gave an error");
        evidence::note(Undergone::Trouble);
        Err(io::Error::from_raw_os_error(code))
    }

    /// As [`Self::meet`], of a store that does not recover.
    pub fn meet_for_good(&mut self, operation: Operation) -> io::Result<()> {
        if let Some((kind, text)) = &self.failed {
            return Err(io::Error::new(*kind, text.clone()));
        }
        let met = self.meet(operation);
        if let Err(error) = &met {
            self.fail(error.kind(), error.to_string());
        }
        met
    }

    /// The store does not recover from this.
    pub fn fail(&mut self, kind: io::ErrorKind, text: String) {
        self.failed.get_or_insert((kind, text));
    }
}

/// The system's numbers for these errors, which make its texts.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_failed_stays_failed_until_the_next_process() {
        let mut faults = Faults::default();
        faults.begin(Trouble::Full);
        assert!(faults.meet_for_good(Operation::Read).is_ok(), "a full disk can be read");
        assert!(faults.meet_for_good(Operation::Write).is_err());
        faults.end(Trouble::Full);
        assert_eq!(faults.meet_for_good(Operation::Read).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(faults.meet(Operation::Write).is_ok(), "files recover");
        assert_eq!(faults.told().iter().collect::<Vec<_>>(), [&Excuse::Full]);
        faults.next_process();
        assert!(faults.meet_for_good(Operation::Write).is_ok());
    }

    #[test]
    fn a_trouble_that_nobody_met_is_told_from_others() {
        let mut faults = Faults::default();
        faults.begin(Trouble::SyncFails);
        faults.begin(Trouble::SlowMs(7));
        assert!(faults.meet(Operation::Write).is_ok());
        assert!(!faults.end(Trouble::SyncFails), "nothing was synced");
        assert_eq!(faults.slow_ms(), Some(7));
        assert!(faults.end(Trouble::SlowMs(7)));
        assert_eq!(faults.slow_ms(), None);
    }

    #[test]
    fn words_must_name_the_fault() {
        assert!(Excuse::Full.is_named_by("the log: No space left on device (os error 28)"));
        assert!(!Excuse::Full.is_named_by("storage error"));
        assert!(!Excuse::Damaged.is_named_by("the log entry 5 is damaged"), "it does not say what to do");
        let words = "it is damaged; empty its data directory and start it again";
        assert!(Excuse::Damaged.is_named_by(words));
    }
}
