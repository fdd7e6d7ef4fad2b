//! The fault model: which faults may happen together.
//!
//! Invariant: the disks of a quorum survive, so nothing that was promised may be lost. That is, of
//! the voters never more than a minority has lost its disk or may have a bad one, and one is
//! replaced before the next is spoilt. Everything else (deaths, power cuts, partitions, stops, of
//! any number of machines) may happen together as it likes: it may only cost time.
//!
//! An old copy of a disk is the exception that must be alone. It remembers neither what it voted nor
//! what it stored, and nobody can know that when the others are silent; it is refused only by
//! members that have seen its later boots. So it is put in place when all others are up and know all
//! that was committed, and nothing else happens until it was refused.

use std::collections::BTreeMap;

use super::FaultKind;

/// The cluster as a fault finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Voters.
    pub voters: usize,
    /// Of those, the ones without a good disk, whoever is hit now not counted.
    pub spoilt: usize,
    /// Whether a node is being replaced.
    pub replacing: bool,
    /// Whether who is hit is a voter.
    pub hits_voter: bool,
    /// Whether all that should run is up, ready and at the same entry.
    pub calm: bool,
}

/// The faults that are under way: others begin as the model lets them beside these.
#[derive(Default)]
pub struct ActiveFaults {
    by_id: BTreeMap<usize, FaultKind>,
}

impl ActiveFaults {
    /// Lets fault number `id` begin, or says why not now.
    pub fn admit(&mut self, id: usize, kind: FaultKind, situation: Situation) -> Result<(), &'static str> {
        if self.by_id.values().any(|other| *other == FaultKind::OldCopy) {
            return Err("an old copy is in place");
        }
        if kind.spoils_disk() {
            if situation.voters == 0 {
                return Err("nobody knows who votes");
            }
            if situation.replacing || self.by_id.values().any(|other| other.spoils_disk()) {
                return Err("a node is being replaced");
            }
            let spoilt = situation.spoilt + usize::from(situation.hits_voter);
            if situation.hits_voter && spoilt * 2 >= situation.voters {
                return Err("a quorum of the disks must survive");
            }
        }
        if kind == FaultKind::OldCopy && !(self.by_id.is_empty() && situation.calm) {
            return Err("all others must be there to refuse an old copy");
        }
        self.by_id.insert(id, kind);
        Ok(())
    }

    /// Fault number `id` is over.
    pub fn over(&mut self, id: usize) {
        self.by_id.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Situation = Situation { voters: 3, spoilt: 0, replacing: false, hits_voter: true, calm: true };

    #[test]
    fn a_minority_of_the_disks_may_be_lost() {
        let admits = |voters, spoilt, hits_voter| {
            ActiveFaults::default().admit(0, FaultKind::Wipe, Situation { voters, spoilt, hits_voter, ..CALM }).is_ok()
        };
        assert!(admits(3, 0, true));
        assert!(!admits(3, 1, true), "two of three");
        assert!(admits(5, 1, true));
        assert!(!admits(5, 2, true));
        assert!(!admits(1, 0, true), "the only one");
        assert!(!admits(2, 0, true), "a quorum of two is both");
        assert!(admits(3, 1, false), "a learner's disk promises nothing");
        assert!(!admits(0, 0, false), "without a leader anybody may be a voter");
    }

    #[test]
    fn one_disk_is_replaced_at_a_time() {
        let mut faults = ActiveFaults::default();
        assert!(faults.admit(0, FaultKind::Wipe, CALM).is_ok());
        assert!(faults.admit(1, FaultKind::BitFlip, CALM).is_err());
        faults.over(0);
        assert!(faults.admit(1, FaultKind::BitFlip, Situation { replacing: true, ..CALM }).is_err());
        assert!(faults.admit(1, FaultKind::BitFlip, CALM).is_ok());
    }

    #[test]
    fn deaths_and_cuts_need_no_leave() {
        let mut faults = ActiveFaults::default();
        let bad = Situation { voters: 3, spoilt: 1, replacing: true, hits_voter: true, calm: false };
        for (id, kind) in
            [FaultKind::PowerCutAll, FaultKind::KillAll, FaultKind::Isolate, FaultKind::Pause].into_iter().enumerate()
        {
            assert!(faults.admit(id, kind, bad).is_ok(), "{kind:?}");
        }
    }

    #[test]
    fn an_old_copy_is_alone() {
        let mut faults = ActiveFaults::default();
        assert!(faults.admit(0, FaultKind::OldCopy, Situation { calm: false, ..CALM }).is_err());
        assert!(faults.admit(0, FaultKind::Loss, CALM).is_ok());
        assert!(faults.admit(1, FaultKind::OldCopy, CALM).is_err());
        faults.over(0);
        assert!(faults.admit(1, FaultKind::OldCopy, CALM).is_ok());
        assert!(faults.admit(2, FaultKind::Kill, CALM).is_err());
        faults.over(1);
        assert!(faults.admit(2, FaultKind::Kill, CALM).is_ok());
    }
}
