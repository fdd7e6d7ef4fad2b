//! Nodes, faults and probes over time.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::iter;

use super::svg::{Axis, LEFT, RIGHT, bar, escape, open};
use crate::nemesis::{FaultKind, FaultSpan, fault_spans};
use crate::oracle::Violation;
use crate::trace::Recorded;

/// Heights.
const NODE: f64 = 22.0;
const FAULT: f64 = 9.0;
const GAP: f64 = 14.0;
/// Colours of faults.
const COLOURS: usize = 6;

/// What a node was, from some moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    Up,
    Paused,
    Leads(u64),
}

impl Phase {
    /// What this event makes of the node that it names.
    fn of(event: &Recorded) -> Option<Self> {
        match event.event.as_str() {
            "boot" => Some(Self::Up),
            "kill" | "failed" | "stopped" => Some(Self::Down),
            "role" if event.of["leads"] == true => Some(Self::Leads(event.of["term"].as_u64().unwrap_or(0))),
            "role" => Some(Self::Up),
            _ => None,
        }
    }
}

/// A run, by time.
pub struct Timeline {
    pub axis: Axis,
    nodes: BTreeMap<String, Vec<(u64, Phase)>>,
    pub faults: Vec<FaultSpan>,
    probes: Vec<(u64, bool)>,
    quiet: Option<u64>,
}

impl Timeline {
    /// Of these events.
    pub fn of(events: &[Recorded], took: u64) -> Self {
        let mut timeline = Self {
            axis: Axis { took },
            nodes: BTreeMap::new(),
            faults: fault_spans(events, took),
            probes: Vec::new(),
            quiet: None,
        };
        for event in events {
            match event.event.as_str() {
                "probe" => timeline.probes.push((event.at, event.of["ok"] == true)),
                "quiet" => timeline.quiet = Some(event.at),
                _ => timeline.note(event),
            }
        }
        let pause = FaultKind::Pause.name();
        for (node, phases) in &mut timeline.nodes {
            let pauses = timeline.faults.iter().filter(|fault| fault.kind == pause && fault.nodes.contains(node));
            let pauses: Vec<_> = pauses.map(|fault| (fault.from, fault.until)).collect();
            *phases = with_pauses(phases, &pauses, took);
        }
        timeline
    }

    fn note(&mut self, event: &Recorded) {
        let (Some(node), Some(phase)) = (event.of["node"].as_str(), Phase::of(event)) else { return };
        let phases = self.nodes.entry(node.to_owned()).or_default();
        let last = phases.last().map(|(_, last)| *last);
        // A dead node's last word may come late.
        let late = last == Some(Phase::Down) && event.event == "role";
        if !late && last != Some(phase) {
            phases.push((event.at, phase));
        }
    }

    /// The colour of a kind of fault.
    fn colour(&self, kind: &str) -> usize {
        let mut kinds: Vec<_> = self.faults.iter().map(|fault| fault.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.iter().position(|other| *other == kind).unwrap_or(0) % COLOURS
    }

    /// Faults of a node, in rows that do not overlap; without a node, those that name none.
    fn rows(&self, node: Option<&str>) -> Vec<Vec<&FaultSpan>> {
        let of = |fault: &&FaultSpan| match node {
            Some(node) => fault.nodes.iter().any(|other| other == node),
            None => !fault.nodes.iter().any(|other| self.nodes.contains_key(other)),
        };
        let mut rows: Vec<Vec<&FaultSpan>> = Vec::new();
        for fault in self.faults.iter().filter(of) {
            let fits = |row: &&mut Vec<&FaultSpan>| row.last().is_none_or(|last| last.until < fault.from);
            match rows.iter_mut().find(fits) {
                Some(row) => row.push(fault),
                None => rows.push(vec![fault]),
            }
        }
        rows
    }
}

/// A node's phases, and that its machine stood still from one moment to another; what is down stays down.
fn with_pauses(phases: &[(u64, Phase)], pauses: &[(u64, u64)], took: u64) -> Vec<(u64, Phase)> {
    let mut moments: Vec<_> = pauses.iter().flat_map(|(begin, end)| [*begin, *end]).collect();
    moments.sort_unstable();
    let mut all: Vec<(u64, Phase)> = Vec::new();
    for (n, &(from, phase)) in phases.iter().enumerate() {
        let until = phases.get(n + 1).map_or(took, |(until, _)| *until);
        let within = moments.iter().copied().filter(|at| from < *at && *at < until);
        for at in iter::once(from).chain(within) {
            let stands_still = pauses.iter().any(|(begin, end)| (*begin..*end).contains(&at));
            let phase = if stands_still && phase != Phase::Down { Phase::Paused } else { phase };
            if all.last().is_none_or(|(_, last)| *last != phase) {
                all.push((at, phase));
            }
        }
    }
    all
}

/// Marks violations over the whole height.
pub fn mark(out: &mut String, axis: Axis, height: f64, violations: &[Violation]) {
    for violation in violations {
        let Some(at) = violation.at else { continue };
        let x = axis.x(at);
        let _ = write!(
            out,
            "<g><title>{}</title><line class=mark x1={x:.1} x2={x:.1} y1=-4 y2={height} /><path class=flag d=\"M{x:.1} -9 l7 4 l-7 4z\"/></g>",
            escape(&violation.to_string())
        );
    }
}

/// The drawing, and what its colours mean.
pub fn draw(timeline: &Timeline, violations: &[Violation]) -> String {
    let mut lanes = String::new();
    let mut y = 4.0;
    for (node, phases) in &timeline.nodes {
        y = node_lane(&mut lanes, timeline, node, phases, y);
    }
    y = fault_rows(&mut lanes, timeline, &timeline.rows(None), y, Some("other faults"));
    y = probe_lane(&mut lanes, timeline, y);
    let mut out = open(y);
    timeline.axis.grid(&mut out, y);
    if let Some(quiet) = timeline.quiet {
        let from = timeline.axis.x(quiet);
        bar(&mut out, "quiet", (from, RIGHT), (0.0, y), "no more faults: everything must come to rest");
    }
    out.push_str(&lanes);
    mark(&mut out, timeline.axis, y, violations);
    out.push_str("</svg>");
    out.push_str(&legend(timeline));
    out
}

fn node_lane(out: &mut String, timeline: &Timeline, node: &str, phases: &[(u64, Phase)], y: f64) -> f64 {
    let axis = timeline.axis;
    let _ = write!(out, "<text class=name x=8 y={:.1}>{}</text>", y + 15.0, escape(node));
    for (at, (from, phase)) in phases.iter().enumerate() {
        let until = phases.get(at + 1).map_or(axis.took, |(until, _)| *until);
        let (class, words) = match phase {
            Phase::Down => ("down", "down".to_owned()),
            Phase::Up => ("up", "up".to_owned()),
            Phase::Paused => ("paused", "paused".to_owned()),
            Phase::Leads(term) => ("leads", format!("leads in term {term}")),
        };
        let (left, right) = (axis.x(*from), axis.x(until));
        let title = format!("{node} {words}, {:.3} to {:.3} s", *from as f64 / 1e9, until as f64 / 1e9);
        bar(out, class, (left, right), (y, NODE), &title);
        if let Phase::Leads(term) = phase
            && right - left > 46.0
        {
            let _ = write!(out, "<text class=on x={:.1} y={:.1}>term {term}</text>", left + 5.0, y + 15.0);
        }
    }
    fault_rows(out, timeline, &timeline.rows(Some(node)), y + NODE + 2.0, None) + GAP - 2.0
}

fn fault_rows(out: &mut String, timeline: &Timeline, rows: &[Vec<&FaultSpan>], mut y: f64, name: Option<&str>) -> f64 {
    if let Some(name) = name.filter(|_| !rows.is_empty()) {
        let _ = write!(out, "<text x=8 y={:.1}>{name}</text>", y + 8.0);
    }
    for row in rows {
        for fault in row {
            let class = format!("f{}", timeline.colour(&fault.kind));
            let (from, until) = (timeline.axis.x(fault.from), timeline.axis.x(fault.until));
            let seconds = (fault.until - fault.from) as f64 / 1e9;
            let title = format!("{} of {}: {seconds:.3} s", fault.kind, fault.nodes.join(", "));
            bar(out, &class, (from, until), (y, FAULT - 2.0), &title);
        }
        y += FAULT;
    }
    y
}

fn probe_lane(out: &mut String, timeline: &Timeline, y: f64) -> f64 {
    let _ = write!(out, "<text class=name x=8 y={:.1}>probes</text>", y + 13.0);
    // So many side by side can be told apart.
    let cells = 260.0_f64.min(timeline.probes.len().max(1) as f64);
    let width = (RIGHT - LEFT) / cells;
    let mut sums: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (at, ok) in &timeline.probes {
        let cell = ((timeline.axis.x(*at) - LEFT) / width) as u64;
        let (good, all) = sums.entry(cell).or_default();
        *good += u64::from(*ok);
        *all += 1;
    }
    for (cell, (good, all)) in sums {
        let class = match good {
            _ if good == all => "ok",
            0 => "fail",
            _ => "some",
        };
        let left = LEFT + cell as f64 * width;
        bar(out, class, (left, left + width - 1.0), (y + 2.0, 14.0), &format!("{good} of {all} probes succeeded"));
    }
    y + 22.0
}

fn legend(timeline: &Timeline) -> String {
    let mut out = String::from("<div class=legend>");
    for (style, name) in [
        ("background:var(--leads)", "leads"),
        ("background:var(--up)", "up"),
        ("background:var(--warn);opacity:.6", "paused"),
        ("background:repeating-linear-gradient(45deg,var(--hatch) 0 2px,var(--down) 2px 5px)", "down"),
        ("background:var(--good)", "probe succeeded"),
        ("background:var(--bad)", "probe failed; violation"),
    ] {
        let _ = write!(out, "<span><i style=\"{style}\"></i>{name}</span>");
    }
    let mut kinds: Vec<_> = timeline.faults.iter().map(|fault| fault.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let colour = timeline.colour(kind);
        let _ = write!(
            out,
            "<span><i style=\"background:var(--f{colour})\"></i>{}</span>",
            escape(&kind.replace('_', " "))
        );
    }
    out + "</div>"
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Phase::{Down, Leads, Paused, Up};
    use super::*;

    fn told(at: u64, event: &str, of: Value) -> Recorded {
        Recorded { at, event: event.to_owned(), of }
    }

    fn node(at: u64, event: &str) -> Recorded {
        told(at, event, json!({ "node": "n0" }))
    }

    fn leads(at: u64, term: u64) -> Recorded {
        told(at, "role", json!({ "node": "n0", "term": term, "leads": true }))
    }

    fn pause(at: u64, id: u64, name: &str, phase: &str) -> Recorded {
        told(at, "fault", json!({ "id": id, "kind": "pause", "nodes": [name], "phase": phase }))
    }

    /// What `n0` was when it led, and then this happened.
    fn then(events: &[Recorded]) -> Vec<(u64, Phase)> {
        let events = [&[node(0, "boot"), leads(10, 3)], events].concat();
        let phases = Timeline::of(&events, 100).nodes["n0"].clone();
        assert_eq!(phases[..2], [(0, Up), (10, Leads(3))]);
        phases[2..].to_vec()
    }

    #[test]
    fn whatever_ends_is_down_until_it_boots() {
        for end in ["kill", "failed", "stopped"] {
            let phases = then(&[node(20, "drain"), node(30, end), leads(31, 3), node(50, "boot"), leads(60, 5)]);
            assert_eq!(phases, [(30, Down), (50, Up), (60, Leads(5))], "{end}");
        }
        assert_eq!(then(&[node(20, "drain"), node(30, "stopped"), node(30, "wipe")]), [(30, Down)], "it was removed");
        assert_eq!(then(&[node(30, "kill"), node(30, "boot")]), [(30, Down), (30, Up)]);
    }

    #[test]
    fn the_paused_go_on_as_before() {
        let (begin, end) = (|at, id| pause(at, id, "n0", "begin"), |at, id| pause(at, id, "n0", "end"));
        assert_eq!(then(&[begin(20, 0), end(40, 0)]), [(20, Paused), (40, Leads(3))]);
        assert_eq!(then(&[begin(20, 0)]), [(20, Paused)], "to the run's end");
        assert!(then(&[pause(20, 0, "n1", "begin"), pause(40, 0, "n1", "end")]).is_empty(), "another one");
        let overlapping = [begin(20, 0), begin(30, 1), end(40, 0), end(50, 1)];
        assert_eq!(then(&overlapping), [(20, Paused), (50, Leads(3))]);
        let killed = [begin(20, 0), node(30, "kill"), node(40, "boot"), end(40, 0)];
        assert_eq!(then(&killed), [(20, Paused), (30, Down), (40, Up)]);
        assert_eq!(then(&[begin(20, 0), leads(30, 4), end(40, 0)]), [(20, Paused), (40, Leads(4))]);
    }

    #[test]
    fn pauses_are_drawn() {
        let events = [node(0, "boot"), pause(20, 0, "n0", "begin"), pause(40, 0, "n0", "end")];
        let page = draw(&Timeline::of(&events, 100), &[]);
        assert!(page.contains("<rect class=\"paused\"") && page.contains("</i>paused</span>"), "{page}");
    }
}
