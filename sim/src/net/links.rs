//! The ways from machine to machine: how long they take, what they lose, and whether they are open.
//!
//! Invariant: nothing here is shared between the two directions of a link, and what one fault did
//! to a way is undone by its own end only, however many overlap.

use std::time::Duration;

use super::Host;
use crate::coverage;
use crate::dice::Dice;
use crate::evidence::{self, Undergone};
use crate::time::{NEVER, nanos, now};

/// Latency within a machine, one way.
const LOCAL: Duration = Duration::from_micros(20);
/// Fixed part of a link's latency, one way: at least and at most.
const LINK: (Duration, Duration) = (Duration::from_micros(100), Duration::from_micros(800));
/// Most that one packet takes longer; one in [`TAIL_ONE_IN`] takes up to [`TAIL`] longer.
const JITTER: Duration = Duration::from_micros(200);
const TAIL: Duration = Duration::from_millis(10);
const TAIL_ONE_IN: u64 = 500;
/// TCP's first pause before it sends again what was lost; each further one is twice as long.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// Most doublings of that pause that are played: a connection gives up sooner by its own timeouts.
const MOST_DOUBLINGS: u32 = 8;

/// A weakness of a way, for as long as a fault lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// Nothing passes.
    Cut,
    /// Requests to connect get lost; streams that are open go on.
    HangingConnects,
    /// Each packet takes up to so many milliseconds longer, so streams overtake each other.
    SlowMs(u64),
    /// So many of 100 packets are lost, and sent again after TCP's pauses.
    LossPercent(u64),
    /// No more than so many KiB pass in a second.
    KibPerS(u64),
}

/// One direction between two machines.
#[derive(Default)]
struct Way {
    /// In nanoseconds.
    latency: u64,
    weak: Vec<Weakness>,
    /// Whether any weakness is a cut.
    cut: bool,
    /// When the last byte that was sent has left, where that takes time.
    free_at: u64,
    /// What it was given to carry so far.
    given: Given,
}

/// What a way was given, weak or not.
#[derive(Default)]
struct Given {
    /// Packets of streams.
    packets: u64,
    /// Of those, the ones that a cut stopped.
    stopped: u64,
    /// Requests to connect, and their answers.
    connects: u64,
}

/// All ways.
pub struct Links {
    /// By sender, then receiver.
    ways: Vec<Vec<Way>>,
    dice: Dice,
}

impl Links {
    pub fn new(dice: Dice) -> Self {
        Self { ways: Vec::new(), dice }
    }

    /// Adds a machine, linked to all others.
    pub fn add_host(&mut self) {
        let host = self.ways.len();
        let mut out = Vec::with_capacity(host + 1);
        for ways in &mut self.ways {
            let fixed = || self.dice.between(nanos(LINK.0), nanos(LINK.1));
            ways.push(Way { latency: fixed(), ..Way::default() });
            out.push(Way { latency: fixed(), ..Way::default() });
        }
        out.push(Way { latency: nanos(LOCAL), ..Way::default() });
        self.ways.push(out);
    }

    /// Weakens a way, on top of whatever else does; `false` takes one such weakness away again.
    pub fn set(&mut self, from: Host, to: Host, weakness: Weakness, on: bool) {
        let way = &mut self.ways[from][to];
        if on {
            way.weak.push(weakness);
        } else if let Some(at) = way.weak.iter().position(|weak| *weak == weakness) {
            way.weak.swap_remove(at);
        }
        way.cut = way.weak.contains(&Weakness::Cut);
    }

    /// How many weaknesses all ways have.
    pub fn weaknesses(&self) -> usize {
        self.ways.iter().flatten().map(|way| way.weak.len()).sum()
    }

    pub fn is_cut(&self, from: Host, to: Host) -> bool {
        self.ways[from][to].cut
    }

    /// How much a way was given so far that such a weakness would have to do with.
    pub fn given(&self, from: Host, to: Host, weakness: Weakness) -> u64 {
        let given = &self.ways[from][to].given;
        match weakness {
            Weakness::Cut => given.packets + given.connects,
            Weakness::HangingConnects => given.connects,
            Weakness::SlowMs(_) | Weakness::LossPercent(_) | Weakness::KibPerS(_) => given.packets - given.stopped,
        }
    }

    /// Whether a request to connect gets lost on this way.
    pub fn loses_connects(&mut self, from: Host, to: Host) -> bool {
        let way = &mut self.ways[from][to];
        way.given.connects += 1;
        let hangs = way.weak.contains(&Weakness::HangingConnects);
        if hangs {
            evidence::note(Undergone::Weakness);
        }
        if way.cut {
            evidence::note(Undergone::Cut);
        }
        let lost = way.cut || hangs;
        if lost {
            coverage::reached("a request to connect got lost");
        }
        lost
    }

    /// Whether a single packet, which nobody sends again, gets lost.
    pub fn loses_one(&self, from: Host, to: Host) -> bool {
        let way = &self.ways[from][to];
        way.cut || way.weak.iter().any(|weak| matches!(weak, Weakness::LossPercent(cases) if self.dice.percent(*cases)))
    }

    /// How long a small packet takes, in nanoseconds, cut or not.
    pub fn latency(&self, from: Host, to: Host) -> u64 {
        let way = &self.ways[from][to];
        if from == to {
            return way.latency;
        }
        let tail = if self.dice.one_in(TAIL_ONE_IN) { self.dice.between(0, nanos(TAIL)) } else { 0 };
        let mut taken = way.latency + self.dice.between(0, nanos(JITTER)) + tail;
        for weak in &way.weak {
            if let Weakness::SlowMs(most) = weak {
                evidence::note(Undergone::Weakness);
                taken += self.dice.between(0, most * 1_000_000);
            }
        }
        taken
    }

    /// When `len` bytes sent now arrive; [`NEVER`] while the way is cut.
    pub fn arrival(&mut self, from: Host, to: Host, len: usize) -> u64 {
        let way = &mut self.ways[from][to];
        way.given.packets += 1;
        if way.cut {
            way.given.stopped += 1;
            evidence::note(Undergone::Cut);
            coverage::reached("a cut held back what was sent");
            return NEVER;
        }
        let taken = self.latency(from, to);
        let way = &mut self.ways[from][to];
        if way.weak.is_empty() {
            return now() + taken;
        }
        let (mut left, mut lost) = (now(), 0);
        for weak in &way.weak {
            match *weak {
                Weakness::KibPerS(kib) => {
                    evidence::note(Undergone::Weakness);
                    left = left.max(way.free_at) + (len as u64 * 1_000_000_000) / (kib.max(1) << 10);
                    way.free_at = left;
                }
                Weakness::LossPercent(cases) => {
                    evidence::note(Undergone::Weakness);
                    let mut times = 0;
                    while times < MOST_DOUBLINGS && self.dice.percent(cases) {
                        lost += nanos(RETRANSMIT) << times;
                        times += 1;
                    }
                }
                Weakness::Cut | Weakness::HangingConnects | Weakness::SlowMs(_) => {}
            }
        }
        if lost > 0 {
            coverage::reached("a packet was lost and sent again");
        }
        left + lost + taken
    }

    /// When TCP tries again after a cut that held something back since `since`: its pauses double,
    /// so the longer the cut, the longer it takes.
    pub fn retry_after_cut(&self, since: u64) -> u64 {
        let held = now().saturating_sub(since);
        now() + self.dice.between(1_000_000, held.max(nanos(RETRANSMIT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Links {
        let mut links = Links::new(Dice::new(1, "test"));
        links.add_host();
        links.add_host();
        links
    }

    #[test]
    fn overlapping_faults_end_by_themselves() {
        let mut links = two();
        links.set(0, 1, Weakness::Cut, true);
        links.set(0, 1, Weakness::Cut, true);
        links.set(0, 1, Weakness::Cut, false);
        assert!(links.is_cut(0, 1), "the second cut goes on");
        assert!(!links.is_cut(1, 0), "the way back is another");
        links.set(0, 1, Weakness::Cut, false);
        assert!(!links.is_cut(0, 1));
    }

    #[test]
    fn a_way_takes_as_long_as_it_always_does_and_now_and_then_longer() {
        let links = two();
        let taken: Vec<_> = (0..10_000).map(|_| links.latency(0, 1)).collect();
        let least = taken.iter().copied().min().unwrap_or_default();
        assert!((nanos(LINK.0)..nanos(LINK.1 + JITTER)).contains(&least), "{least}");
        let late = taken.iter().filter(|taken| **taken > least + nanos(JITTER)).count();
        assert!((1..60).contains(&late), "{late} of 10000 in the tail");
        assert!(taken.iter().all(|taken| *taken <= least + nanos(JITTER + TAIL)));
    }

    #[test]
    fn what_a_way_was_given_is_counted_by_what_would_stop_it() {
        let mut links = two();
        links.arrival(0, 1, 1);
        links.set(0, 1, Weakness::Cut, true);
        links.arrival(0, 1, 1);
        assert!(links.loses_connects(0, 1));
        let given = |weakness| links.given(0, 1, weakness);
        assert_eq!(given(Weakness::Cut), 3);
        assert_eq!(given(Weakness::HangingConnects), 1);
        assert_eq!(given(Weakness::LossPercent(1)), 1, "a cut stopped the other");
    }

    #[test]
    fn a_narrow_way_takes_its_time() {
        let mut links = two();
        links.set(0, 1, Weakness::KibPerS(10), true);
        let first = links.arrival(0, 1, 10 << 10);
        let second = links.arrival(0, 1, 10 << 10);
        assert!((1_000_000_000..1_100_000_000).contains(&first), "10 KiB at 10 KiB/s: {first}");
        assert!((2_000_000_000..2_100_000_000).contains(&second), "behind the first: {second}");
    }

    #[test]
    fn what_is_lost_comes_after_a_pause() {
        let mut links = two();
        links.set(0, 1, Weakness::LossPercent(50), true);
        let late = (0..1000).filter(|_| links.arrival(0, 1, 1) >= nanos(RETRANSMIT)).count();
        assert!((400..600).contains(&late), "{late} of 1000");
    }
}
