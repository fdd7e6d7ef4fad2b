//! What the simulated machines, links, disks and clocks really underwent, by their own account: a fault
//! that is told to have happened and that nothing below saw proves nothing.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use crate::nemesis::Kind;
use crate::oracle::{Violation, harness};

use cluster::sync::lock;

/// What can be undergone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Undergone {
    /// A process was killed.
    Death,
    /// A machine lost power.
    PowerCut,
    /// A process stood still.
    Stall,
    /// A process was told to stop.
    Stop,
    /// A disk was emptied, or replaced.
    NewDisk,
    /// A way between machines was cut.
    Cut,
    /// A way was weakened otherwise.
    Weakness,
    /// Streams were reset, or forgotten.
    Streams,
    /// A disk got a trouble.
    Trouble,
    /// A wall clock jumped.
    Jump,
    /// An operator's command was given.
    Command,
    /// A machine was given a place in the cluster.
    Place,
}

static SEEN: Mutex<BTreeSet<Undergone>> = Mutex::new(BTreeSet::new());

fn locked() -> MutexGuard<'static, BTreeSet<Undergone>> {
    lock(&SEEN)
}

/// Something was undergone.
pub fn note(what: Undergone) {
    locked().insert(what);
}

/// What was undergone in this process.
pub fn seen() -> BTreeSet<Undergone> {
    locked().clone()
}

/// What a kind of fault leaves behind, whenever it happens.
fn of(kind: Kind) -> Option<Undergone> {
    Some(match kind {
        Kind::Kill | Kind::KillAll | Kind::CrashLoop => Undergone::Death,
        Kind::PowerCut | Kind::PowerCutAll | Kind::Wipe => Undergone::PowerCut,
        Kind::Pause | Kind::SlowCpu => Undergone::Stall,
        Kind::Drain | Kind::RollingRestart | Kind::RemoveNode => Undergone::Stop,
        Kind::OldCopy | Kind::LostHalf => Undergone::NewDisk,
        Kind::Isolate | Kind::CutOut | Kind::CutIn | Kind::CutLink | Kind::Partition | Kind::Swizzle => Undergone::Cut,
        // Of three nodes each is every other's neighbour.
        Kind::Ring => return None,
        Kind::HangingConnects | Kind::SlowLinks | Kind::Loss | Kind::Narrow => Undergone::Weakness,
        Kind::Reset | Kind::Forget => Undergone::Streams,
        Kind::FsyncError | Kind::DiskError | Kind::DiskFull | Kind::SlowDisk => Undergone::Trouble,
        // There may be nothing on the disk yet whose bits could flip.
        Kind::BitFlip => return None,
        Kind::ClockJump => Undergone::Jump,
        Kind::TransferLeader | Kind::LeaderChurn | Kind::Breaker => Undergone::Command,
        Kind::AddNode => Undergone::Place,
    })
}

/// Faults that were told to have ended, of which nothing below saw anything.
pub fn check(ended: impl Iterator<Item = Kind>, seen: &BTreeSet<Undergone>) -> Vec<Violation> {
    let vain: BTreeSet<_> = ended.filter(|kind| of(*kind).is_some_and(|trace| !seen.contains(&trace))).collect();
    vain.into_iter().map(|kind| harness(format!("the fault {} did nothing to anything", kind.name()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_that_do_nothing_show() {
        let told = || [Kind::Kill, Kind::Isolate].into_iter();
        assert!(check(told(), &BTreeSet::from([Undergone::Death, Undergone::Cut])).is_empty());
        let vain = check(told(), &BTreeSet::from([Undergone::Death]));
        assert_eq!(vain.len(), 1);
        assert!(vain[0].text.contains("isolate did nothing"));
    }
}
