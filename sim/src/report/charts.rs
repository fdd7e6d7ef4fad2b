//! Latency and rates over time.

use std::fmt::Write;

use super::lanes::{Timeline, mark};
use super::svg::{Axis, LEFT, RIGHT, open};
use crate::oracle::Violation;
use crate::slo::{Histogram, P99_NS};
use crate::trace::Recorded;

const HEIGHT: f64 = 170.0;
/// Windows over the whole width.
const WINDOWS: u64 = 80;

/// Sums values over windows of time.
fn windows<T: Default>(axis: Axis, values: impl Iterator<Item = (u64, u64)>, add: impl Fn(&mut T, u64)) -> Vec<T> {
    let mut windows: Vec<T> = (0..WINDOWS).map(|_| T::default()).collect();
    for (at, value) in values {
        let window = at.saturating_mul(WINDOWS) / axis.took.max(1);
        add(&mut windows[usize::try_from(window.min(WINDOWS - 1)).expect("few windows")], value);
    }
    windows
}

/// The middle of a window.
fn middle(window: usize) -> f64 {
    LEFT + (RIGHT - LEFT) * (window as f64 + 0.5) / WINDOWS as f64
}

/// A line through what there is, broken where there is nothing.
fn line(out: &mut String, class: &str, points: &[Option<f64>]) {
    let mut path = String::new();
    let mut pen = false;
    for (window, y) in points.iter().enumerate() {
        if let Some(y) = y {
            let _ = write!(path, "{}{:.1} {y:.1}", if pen { "L" } else { "M" }, middle(window));
            if !pen {
                path.push_str("h.1");
            }
        }
        pen = y.is_some();
    }
    let _ = write!(out, "<path class=\"line {class}\" d=\"{path}\"/>");
}

/// P50 and P99 by window, on a logarithmic scale from 0.5 ms to 20 s.
pub fn latency(latencies: &[(u64, u64)], timeline: &Timeline, violations: &[Violation]) -> String {
    let axis = timeline.axis;
    let (low, high) = (5e5_f64.log10(), 2e10_f64.log10());
    let y = |nanos: u64| {
        let share = ((nanos.max(1) as f64).log10() - low) / (high - low);
        HEIGHT * (1.0 - share.clamp(0.0, 1.0))
    };
    let mut out = open(HEIGHT);
    axis.grid(&mut out, HEIGHT);
    for (nanos, name) in [
        (1_000_000, "1 ms"),
        (10_000_000, "10 ms"),
        (100_000_000, "100 ms"),
        (1_000_000_000, "1 s"),
        (10_000_000_000, "10 s"),
    ] {
        let at = y(nanos);
        let _ = write!(
            out,
            "<line class=grid x1={LEFT} x2={RIGHT} y1={at:.1} y2={at:.1} /><text x=84 y={:.1} text-anchor=end>{name}</text>",
            at + 4.0
        );
    }
    let objective = y(P99_NS);
    let _ = write!(
        out,
        "<line class=objective x1={LEFT} x2={RIGHT} y1={objective:.1} y2={objective:.1}><title>objective: P99 below 200 ms</title></line>"
    );
    let sums = windows(axis, latencies.iter().copied(), |sum: &mut Histogram, took| sum.add(took));
    for (class, share) in [("p50", 0.5), ("p99", 0.99)] {
        let points: Vec<_> = sums.iter().map(|sum| sum.quantile(share).map(y)).collect();
        line(&mut out, class, &points);
    }
    mark(&mut out, axis, HEIGHT, violations);
    out + "</svg>" + &legend(&[("p50", "P50"), ("p99", "P99"), ("bad", "objective (P99 below 200 ms)")])
}

/// Messages sent, `ok`'d and received, by window.
pub fn rates(events: &[Recorded], timeline: &Timeline) -> String {
    let axis = timeline.axis;
    let of = |name: &str, stored: bool| {
        let chosen = events.iter().filter(|event| {
            event.event == name && (!stored || event.of["fate"].as_str().is_some_and(|fate| fate.starts_with("stored")))
        });
        windows(axis, chosen.map(|event| (event.at, 1)), |sum: &mut u64, one| *sum += one)
    };
    let all = [("p99", of("sent", false)), ("p50", of("fate", true)), ("good", of("received", false))];
    let most = all.iter().flat_map(|(_, sums)| sums).max().copied().unwrap_or(0).max(1);
    let seconds = axis.took as f64 / 1e9 / WINDOWS as f64;
    let mut out = open(HEIGHT);
    axis.grid(&mut out, HEIGHT);
    for part in [0.25, 0.5, 0.75, 1.0] {
        let at = HEIGHT * (1.0 - part);
        let rate = most as f64 * part / seconds.max(1e-9);
        let _ = write!(
            out,
            "<line class=grid x1={LEFT} x2={RIGHT} y1={at:.1} y2={at:.1} /><text x=84 y={:.1} text-anchor=end>{rate:.0}</text>",
            at + 4.0
        );
    }
    for (class, sums) in &all {
        let points: Vec<_> = sums.iter().map(|sum| Some(HEIGHT * (1.0 - *sum as f64 / most as f64))).collect();
        line(&mut out, class, &points);
    }
    out + "</svg>" + &legend(&[("p99", "sent"), ("p50", "ok'd"), ("good", "received")])
}

fn legend(entries: &[(&str, &str)]) -> String {
    let entries =
        entries.iter().map(|(colour, name)| format!("<span><i style=\"background:var(--{colour})\"></i>{name}</span>"));
    format!("<div class=legend>{}</div>", entries.collect::<String>())
}
