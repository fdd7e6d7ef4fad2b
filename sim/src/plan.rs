//! What will happen in a run: drawn from its seed before it begins.

use std::time::Duration;

use serde_json::{Value, json};

use crate::dice::Dice;

/// A run's course.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Machines that run nodes.
    pub nodes: usize,
    /// For how long clients send.
    pub traffic: Duration,
    /// Pause between two messages of one sender: at most.
    pub pause: Duration,
    /// Entries between two checkpoints of a node, and entries kept behind one.
    pub checkpoint_entries: u64,
    pub kept_entries: u64,
    /// What goes wrong, in order of time.
    pub faults: Vec<Fault>,
}

/// Something that goes wrong, for a while.
#[derive(Debug, Clone)]
pub struct Fault {
    /// When, after traffic began.
    pub at: Duration,
    /// For how long.
    pub lasts: Duration,
    /// Whose machine.
    pub node: usize,
    /// What.
    pub kind: Kind,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The process is killed, and started again.
    Kill,
    /// The machine's power is cut, and comes back.
    PowerCut,
    /// The machine is cut off from all others, clients included.
    Isolate,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Kill, Self::PowerCut, Self::Isolate];
}

fn millis(dice: &Dice, low: u64, high: u64) -> Duration {
    Duration::from_millis(dice.between(low, high))
}

impl Plan {
    /// The plan of `seed`.
    pub fn draw(seed: u64) -> Self {
        let dice = Dice::new(seed, "plan");
        let traffic = millis(&dice, 10_000, 20_000);
        let mut faults = Vec::new();
        let last = u64::try_from(traffic.as_millis()).unwrap_or(u64::MAX);
        // The first is always a death in the middle of traffic; more may follow, at the same time too.
        for n in 0..dice.between(1, 4) {
            let kind = if n == 0 { Kind::Kill } else { Kind::ALL[dice.between(0, 2) as usize] };
            let at = millis(&dice, 1_000, last - 1_000);
            let lasts = millis(&dice, 50, 6_000);
            faults.push(Fault { at, lasts, node: dice.between(0, 2) as usize, kind });
        }
        if dice.one_in(4) {
            // All of them at once.
            let at = millis(&dice, 1_000, last - 1_000);
            faults.extend((0..3).map(|node| Fault { at, lasts: millis(&dice, 50, 3_000), node, kind: Kind::PowerCut }));
        }
        faults.sort_by_key(|fault| fault.at);
        let pause = millis(&dice, 20, 200);
        // Small mostly, so that lagging replicas are sent checkpoints, and restarts begin from one.
        let checkpoint_entries = [5, 50, 300, 10_000][dice.between(0, 3) as usize];
        let kept_entries = [0, 20, 200, 20_000][dice.between(0, 3) as usize];
        Self { nodes: 3, traffic, pause, checkpoint_entries, kept_entries, faults }
    }

    /// For the trace.
    pub fn to_json(&self) -> Value {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let faults = self.faults.iter().map(|fault| {
            json!({ "at_ms": ms(fault.at), "lasts_ms": ms(fault.lasts), "node": fault.node, "kind": format!("{:?}", fault.kind) })
        });
        json!({
            "nodes": self.nodes,
            "traffic_ms": ms(self.traffic),
            "pause_ms": ms(self.pause),
            "checkpoint_entries": self.checkpoint_entries,
            "kept_entries": self.kept_entries,
            "faults": faults.collect::<Vec<_>>(),
        })
    }
}
