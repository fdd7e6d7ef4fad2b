//! The protocol: who breaks its rules is closed, in the time that it names.
//!
//! Judged where nothing was wrong with the node's machine meanwhile or shortly before. What goes wrong elsewhere is no
//! excuse: to close a client takes no other node.

use super::{Violation, liveness};
use crate::ledger::{Book, Tolerated};
use crate::nemesis::FaultSpan;

/// So long after a fault its traces are gone, in ns.
const AFTERMATH: u64 = 10_000_000_000;

/// Strangers that nodes put up with.
pub fn check(book: &Book, faults: &[FaultSpan]) -> Vec<Violation> {
    let without_excuse = book.tolerated.iter().filter(|visit| !faults.iter().any(|fault| excuses(fault, visit)));
    let said = without_excuse.map(|visit| {
        let Tolerated { stranger, node, from, until } = visit;
        let s = (until - from) / 1_000_000_000;
        liveness(format!("protocol: {stranger} was not closed by n{node} within {s} s")).at(*until)
    });
    said.collect()
}

fn excuses(fault: &FaultSpan, visit: &Tolerated) -> bool {
    let here = fault.nodes.is_empty() || fault.nodes.contains(&format!("n{}", visit.node));
    here && fault.from <= visit.until && visit.from < fault.until.saturating_add(AFTERMATH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn said(faults: &[FaultSpan]) -> Vec<String> {
        let visit = Tolerated { stranger: "Binary".into(), node: 1, from: 30 * SECOND, until: 36 * SECOND };
        let book = Book { tolerated: vec![visit], ..Book::default() };
        check(&book, faults).into_iter().map(|violation| violation.text).collect()
    }

    fn fault(node: &str, from: u64, until: u64) -> FaultSpan {
        let (from, until) = (from * SECOND, until * SECOND);
        FaultSpan { kind: "pause".into(), nodes: vec![node.into()], from, until }
    }

    #[test]
    fn who_is_put_up_with_shows() {
        assert!(check(&Book::default(), &[]).is_empty());
        let text = ["protocol: Binary was not closed by n1 within 6 s"];
        for faults in [vec![], vec![fault("n0", 29, 40)], vec![fault("n1", 2, 20)], vec![fault("n1", 37, 40)]] {
            assert_eq!(said(&faults), text, "{faults:?}");
        }
    }

    #[test]
    fn a_fault_of_the_machine_is_an_excuse() {
        for fault in [fault("n1", 2, 21), fault("n1", 31, 32), fault("n1", 36, 60)] {
            assert!(said(&[fault]).is_empty());
        }
    }
}
