//! What the simulated machines, links, disks and clocks really underwent, by their own account: a fault
//! that is told to have hit something and that nothing below saw proves nothing.
//!
//! Invariant: it is noted where it took effect, never where it was asked for. Whether there was anything to
//! hit is another's account: that of who began the fault.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use crate::nemesis::FaultKind;
use crate::oracle::{Violation, harness};

use cluster::sync::lock;

/// What can be undergone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Undergone {
    /// A killed process was dead.
    Death,
    /// A stream fell silent with a machine that lost power.
    PowerCut,
    /// A process stood still.
    Stall,
    /// A process stopped in good order.
    Stop,
    /// A disk was replaced, or a half of it lost.
    NewDisk,
    /// A bit of a disk was flipped.
    Flip,
    /// A packet, or a request to connect, was stopped by a cut.
    Cut,
    /// A packet, or a request to connect, met another weakness of its way.
    Weakness,
    /// A stream was reset, or forgotten.
    Streams,
    /// An operation met a disk's trouble.
    Trouble,
    /// A wall clock jumped.
    Jump,
    /// A node answered an operator who moves leadership, or opens or closes the breaker.
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

/// What a kind of fault leaves behind, whenever it hits anything.
fn of(kind: FaultKind) -> Undergone {
    match kind {
        FaultKind::Kill | FaultKind::KillAll | FaultKind::CrashLoop => Undergone::Death,
        FaultKind::PowerCut | FaultKind::PowerCutAll | FaultKind::Wipe => Undergone::PowerCut,
        FaultKind::Pause | FaultKind::SlowCpu => Undergone::Stall,
        FaultKind::Drain | FaultKind::RollingRestart | FaultKind::RemoveNode => Undergone::Stop,
        FaultKind::OldCopy | FaultKind::LostHalf => Undergone::NewDisk,
        FaultKind::Isolate | FaultKind::CutOut | FaultKind::CutIn | FaultKind::CutLink => Undergone::Cut,
        FaultKind::Partition | FaultKind::Ring | FaultKind::Swizzle => Undergone::Cut,
        FaultKind::HangingConnects | FaultKind::SlowLinks | FaultKind::Loss | FaultKind::Narrow => Undergone::Weakness,
        FaultKind::Reset | FaultKind::Forget => Undergone::Streams,
        FaultKind::FsyncError | FaultKind::DiskError | FaultKind::DiskFull | FaultKind::SlowDisk => Undergone::Trouble,
        FaultKind::BitFlip => Undergone::Flip,
        FaultKind::ClockJump => Undergone::Jump,
        FaultKind::TransferLeader | FaultKind::LeaderChurn | FaultKind::Breaker => Undergone::Command,
        FaultKind::AddNode => Undergone::Place,
    }
}

/// Faults that were told to have ended and to have hit something, of which nothing below saw anything.
pub fn check(hit: impl Iterator<Item = FaultKind>, seen: &BTreeSet<Undergone>) -> Vec<Violation> {
    let vain: BTreeSet<_> = hit.filter(|kind| !seen.contains(&of(*kind))).collect();
    vain.into_iter().map(|kind| harness(format!("the fault {} did nothing to anything", kind.name()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_that_do_nothing_show() {
        let told = || [FaultKind::Kill, FaultKind::Isolate].into_iter();
        assert!(check(told(), &BTreeSet::from([Undergone::Death, Undergone::Cut])).is_empty());
        let vain = check(told(), &BTreeSet::from([Undergone::Death]));
        assert_eq!(vain.len(), 1);
        assert!(vain[0].text.contains("isolate did nothing"));
    }
}
