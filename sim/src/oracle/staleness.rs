//! G5: how long the cluster takes a dead process's sessions for alive.
//!
//! From the death of a process, by the world's account, to the log entry that ends its generation. The
//! promise is made for the crash of one process in a cluster that is otherwise well.

use cluster::id::NodeId;

use super::facts::Generation;
use super::{Violation, safety};
use crate::nemesis::FaultSpan;

/// The promise: 99 of 100 deaths are known within this, in ns.
pub const P99: u64 = 500_000_000;
/// None is known later than this, in ns.
const LONGEST: u64 = 2_000_000_000;
/// In a run with so many deaths, none may be later than [`P99`]: one in a hundred is none of these.
const FEW: usize = 5;
/// A cluster is well when the last other fault is over for so long, in ns.
const WELL_AFTER: u64 = 10_000_000_000;

/// A process was killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// When, in ns.
    pub at: u64,
    /// On which machine.
    pub machine: String,
}

/// How long each death was unknown, in ns, of those that the promise is made for. `nodes`: the nodes
/// that ever ran on machines; `now`: until when the run was watched.
pub fn measure(
    deaths: &[Death],
    generations: &[Generation],
    nodes: &[(NodeId, String)],
    faults: &[FaultSpan],
    now: u64,
) -> Vec<(Death, u64)> {
    let known_at = |death: &Death| {
        let of = |node: NodeId| nodes.iter().any(|(id, machine)| *id == node && *machine == death.machine);
        let lived = generations.iter().find(|generation| {
            of(generation.node)
                && generation.began_at < death.at
                && generation.ended_at.is_none_or(|ended| ended > death.at)
        })?;
        Some(lived.ended_at.unwrap_or(now))
    };
    let claimed = deaths.iter().filter_map(|death| {
        let known_at = known_at(death)?;
        is_claimed(death, known_at, faults).then(|| (death.clone(), known_at - death.at))
    });
    claimed.collect()
}

/// Whether the death is a lone crash: one fault, which kills, and no other one around it.
fn is_claimed(death: &Death, known_at: u64, faults: &[FaultSpan]) -> bool {
    let around = |fault: &&FaultSpan| fault.from <= known_at && death.at < fault.until.saturating_add(WELL_AFTER);
    let mut around = faults.iter().filter(around);
    let by =
        |fault: &FaultSpan| fault.kind == "kill" && fault.nodes == [death.machine.clone()] && fault.until > death.at;
    around.next().is_some_and(by) && around.next().is_none()
}

/// Deaths that were known far too late.
pub fn check(measured: &[(Death, u64)]) -> Vec<Violation> {
    let longest = if measured.len() < FEW { LONGEST } else { P99 };
    let late = measured.iter().filter(|(_, took)| *took > longest);
    let said = late.map(|(death, took)| {
        let ms = took / 1_000_000;
        safety(format!("G5: {} died, and its sessions were said to live for {ms} ms more", death.machine)).at(death.at)
    });
    said.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn took(ended_at: Option<u64>, faults: &[FaultSpan]) -> Vec<u64> {
        let death = Death { at: 20 * SECOND, machine: "n1".into() };
        let generation = Generation { node: NodeId(7), began_at: SECOND, ended_at };
        let measured = measure(&[death], &[generation], &[(NodeId(7), "n1".into())], faults, 60 * SECOND);
        measured.into_iter().map(|(_, took)| took).collect()
    }

    fn span(kind: &str, from: u64, until: u64) -> FaultSpan {
        FaultSpan { kind: kind.into(), nodes: vec!["n1".into()], from: from * SECOND, until: until * SECOND }
    }

    #[test]
    fn until_the_generation_has_ended() {
        assert_eq!(took(Some(21 * SECOND), &[span("kill", 20, 30)]), [SECOND]);
        assert_eq!(took(None, &[span("kill", 20, 30)]), [40 * SECOND]);
        assert_eq!(took(Some(19 * SECOND), &[span("kill", 20, 30)]), Vec::<u64>::new(), "it had no generation");
    }

    #[test]
    fn only_of_a_lone_crash() {
        for other in [span("loss", 5, 15), span("loss", 20, 25), span("power_cut", 3, 90)] {
            assert_eq!(took(Some(21 * SECOND), &[span("kill", 20, 30), other]), Vec::<u64>::new());
        }
        assert_eq!(took(Some(21 * SECOND), &[span("loss", 5, 9), span("kill", 20, 30)]), [SECOND]);
        assert_eq!(took(Some(21 * SECOND), &[span("power_cut", 20, 30)]), Vec::<u64>::new());
    }

    #[test]
    fn phantoms_show() {
        let death = Death { at: SECOND, machine: "n1".into() };
        assert!(check(&[(death.clone(), SECOND)]).is_empty());
        assert!(check(&vec![(death.clone(), P99); 6]).is_empty());
        assert_eq!(check(&vec![(death.clone(), SECOND); 6]).len(), 6, "of few, none is one in a hundred");
        assert!(
            check(&[(death, 5 * SECOND)])[0].text.contains("n1 died, and its sessions were said to live for 5000 ms")
        );
    }
}
