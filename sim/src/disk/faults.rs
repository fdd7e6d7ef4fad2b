//! What is wrong with a disk, and what its process was told of it.
//!
//! Invariant: a store that failed once fails for the rest of its process's life, as the real one
//! does: nobody can know what an operation that failed has left behind.

use std::collections::BTreeSet;
use std::io;

use crate::coverage;

/// A trouble that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Syncs fail; reads and writes do not.
    SyncFails,
    /// Whatever touches the disk fails.
    Fails,
    /// Nothing can be written.
    Full,
    /// A sync takes up to so many milliseconds.
    SlowMs(u64),
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
    troubles: Vec<Trouble>,
    /// What the present process was told.
    told: BTreeSet<Excuse>,
    /// How the store failed for the present process.
    failed: Option<(io::ErrorKind, String)>,
}

impl Faults {
    /// Adds a trouble, or ends one.
    pub fn set(&mut self, trouble: Trouble, on: bool) {
        if on {
            self.troubles.push(trouble);
        } else if let Some(at) = self.troubles.iter().position(|other| *other == trouble) {
            self.troubles.swap_remove(at);
        }
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

    /// How long a sync takes at most, in milliseconds, if that is a trouble.
    pub fn slow_ms(&self) -> Option<u64> {
        let slow = |trouble: &Trouble| if let Trouble::SlowMs(most) = trouble { Some(*most) } else { None };
        self.troubles.iter().filter_map(slow).max()
    }

    /// The error that an operation meets.
    pub fn meet(&mut self, operation: Operation) -> io::Result<()> {
        for trouble in &self.troubles {
            let (excuse, code) = match (trouble, operation) {
                (Trouble::Fails, _) | (Trouble::SyncFails, Operation::Sync) => (Excuse::Failed, EIO),
                (Trouble::Full, Operation::Write | Operation::Sync) => (Excuse::Full, ENOSPC),
                _ => continue,
            };
            self.told.insert(excuse);
            coverage::reached("a disk gave an error");
            return Err(io::Error::from_raw_os_error(code));
        }
        Ok(())
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
        faults.set(Trouble::Full, true);
        assert!(faults.meet_for_good(Operation::Read).is_ok(), "a full disk can be read");
        assert!(faults.meet_for_good(Operation::Write).is_err());
        faults.set(Trouble::Full, false);
        assert_eq!(faults.meet_for_good(Operation::Read).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(faults.meet(Operation::Write).is_ok(), "files recover");
        assert_eq!(faults.told().iter().collect::<Vec<_>>(), [&Excuse::Full]);
        faults.next_process();
        assert!(faults.meet_for_good(Operation::Write).is_ok());
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
