//! Nodes, faults and probes over time.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::svg::{Axis, LEFT, RIGHT, bar, escape, open};
use crate::oracle::Violation;
use crate::slo::Span;
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
    Leads(u64),
}

/// A run, by time.
pub struct Timeline {
    pub axis: Axis,
    nodes: BTreeMap<String, Vec<(u64, Phase)>>,
    pub faults: Vec<Span>,
    probes: Vec<(u64, bool)>,
    quiet: Option<u64>,
}

/// The faults among these events.
pub fn fault_spans(events: &[Recorded], took: u64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut open: BTreeMap<String, usize> = BTreeMap::new();
    for event in events.iter().filter(|event| event.event == "fault") {
        let id = event.of["id"].to_string();
        match event.of["phase"].as_str() {
            Some("begin") => {
                let nodes = event.of["nodes"].as_array().into_iter().flatten();
                let nodes = nodes.filter_map(Value::as_str).map(str::to_owned).collect();
                let kind = event.of["kind"].as_str().unwrap_or("?").to_owned();
                open.insert(id, spans.len());
                spans.push(Span { kind, nodes, from: event.at, until: took });
            }
            Some("end") => {
                if let Some(at) = open.remove(&id) {
                    spans[at].until = event.at;
                }
            }
            _ => {}
        }
    }
    spans
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
            let node = event.of["node"].as_str();
            let phase = match (event.event.as_str(), node) {
                ("boot", Some(_)) => Phase::Up,
                ("kill" | "failed", Some(_)) => Phase::Down,
                ("role", Some(_)) if event.of["leads"] == true => Phase::Leads(event.of["term"].as_u64().unwrap_or(0)),
                ("role", Some(_)) => Phase::Up,
                ("probe", _) => {
                    timeline.probes.push((event.at, event.of["ok"] == true));
                    continue;
                }
                ("quiet", _) => {
                    timeline.quiet = Some(event.at);
                    continue;
                }
                _ => continue,
            };
            let phases = timeline.nodes.entry(node.unwrap_or_default().to_owned()).or_default();
            // A dead node's last word may come late.
            let dead = phases.last().is_some_and(|(_, last)| *last == Phase::Down) && event.event == "role";
            if !dead && phases.last().is_none_or(|(_, last)| *last != phase) {
                phases.push((event.at, phase));
            }
        }
        timeline
    }

    /// The colour of a kind of fault.
    fn colour(&self, kind: &str) -> usize {
        let mut kinds: Vec<_> = self.faults.iter().map(|fault| fault.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.iter().position(|other| *other == kind).unwrap_or(0) % COLOURS
    }

    /// Faults of a node, in rows that do not overlap; without a node, those that name none.
    fn rows(&self, node: Option<&str>) -> Vec<Vec<&Span>> {
        let of = |fault: &&Span| match node {
            Some(node) => fault.nodes.iter().any(|other| other == node),
            None => !fault.nodes.iter().any(|other| self.nodes.contains_key(other)),
        };
        let mut rows: Vec<Vec<&Span>> = Vec::new();
        for fault in self.faults.iter().filter(of) {
            let fits = |row: &&mut Vec<&Span>| row.last().is_none_or(|last| last.until < fault.from);
            match rows.iter_mut().find(fits) {
                Some(row) => row.push(fault),
                None => rows.push(vec![fault]),
            }
        }
        rows
    }
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

fn fault_rows(out: &mut String, timeline: &Timeline, rows: &[Vec<&Span>], mut y: f64, name: Option<&str>) -> f64 {
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
