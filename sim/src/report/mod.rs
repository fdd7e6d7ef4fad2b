//! What a run, or a sweep, was like, on a page of its own: no scripts, nothing from elsewhere.

mod charts;
mod lanes;
mod svg;
mod sweep;

use std::fmt::Write;

use serde_json::{Value, json};

pub use sweep::page as sweep_page;

use crate::oracle::Violation;
use crate::summary::Summary;
use crate::trace::Recorded;
use lanes::Timeline;
use svg::escape;

/// Events shown with a violation.
const WITH_VIOLATION: usize = 14;

/// A run to be shown.
pub struct Report<'a> {
    /// The command that makes it again.
    pub replay: &'a str,
    /// All that happened.
    pub events: &'a [Recorded],
    /// What was broken.
    pub violations: &'a [Violation],
    /// What came of it.
    pub summary: &'a Summary,
    /// When each message was sent and how long it took, in ns.
    pub latencies: &'a [(u64, u64)],
}

/// The head of a page.
fn head(title: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{}</title><style>{}</style></head><body><main>",
        escape(title),
        include_str!("style.css")
    )
}

fn tile(out: &mut String, value: &str, what: &str, bad: bool) {
    let class = if bad { "tile bad" } else { "tile" };
    let _ = write!(out, "<div class=\"{class}\"><b>{}</b><span>{}</span></div>", escape(value), escape(what));
}

/// A share, for people.
fn percent(share: f64) -> String {
    if share >= 1.0 { "100 %".to_owned() } else { format!("{:.3} %", share * 100.0) }
}

fn millis(nanos: u64) -> String {
    let ms = nanos as f64 / 1e6;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 10_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1e3)
    }
}

/// The page.
pub fn page(report: &Report) -> String {
    let mut out = head(&format!("Simulated run, seed {}", report.summary.seed));
    let (word, class) =
        if report.violations.is_empty() { ("kept every promise", "") } else { ("broke promises", "bad") };
    let _ = write!(
        out,
        "<h1>Seed {}<span class=\"verdict {class}\">{word}</span></h1><div class=\"soft\">replay: <code>{}</code></div>",
        report.summary.seed,
        escape(report.replay)
    );
    tiles(&mut out, report);
    let timeline = Timeline::of(report.events, report.summary.took);
    let _ = write!(out, "<section><h2>Timeline</h2>{}</section>", lanes::draw(&timeline, report.violations));
    let _ = write!(
        out,
        "<section><h2>Delivery latency that clients saw</h2>{}</section>",
        charts::latency(report.latencies, &timeline, report.violations)
    );
    let _ = write!(out, "<section><h2>Messages a second</h2>{}</section>", charts::rates(report.events, &timeline));
    violations(&mut out, report);
    faults(&mut out, &timeline);
    if let Some(plan) = report.events.iter().find(|event| event.event == "plan") {
        let text = serde_json::to_string_pretty(&plan.of).unwrap_or_default();
        let _ =
            write!(out, "<section><details><summary>Plan</summary><pre>{}</pre></details></section>", escape(&text));
    }
    out.push_str("</main></body></html>\n");
    out
}

fn tiles(out: &mut String, report: &Report) {
    let slo = &report.summary.slo;
    out.push_str("<div class=\"tiles\">");
    tile(out, &format!("{:.1} s", report.summary.took as f64 / 1e9), "virtual time", false);
    tile(out, &report.summary.stored.to_string(), "messages stored", false);
    tile(out, &slo.delivered.to_string(), "received", false);
    tile(out, &percent(slo.availability()), &format!("of {} probes", slo.probes), slo.failed_probes > 0);
    tile(out, &slo.latency.quantile(0.5).map_or("–".into(), millis), "P50 latency", false);
    tile(out, &millis(slo.p99()), "P99 latency", slo.p99() >= crate::slo::P99_NS);
    tile(out, &slo.failed.to_string(), "messages failed, and told so", slo.failed > 0);
    tile(out, &report.violations.len().to_string(), "violations", !report.violations.is_empty());
    out.push_str("</div>");
}

fn violations(out: &mut String, report: &Report) {
    if report.violations.is_empty() {
        return;
    }
    out.push_str("<section><h2>Violations</h2><table><tr><th>at</th><th>kind</th><th>what</th></tr>");
    for violation in report.violations {
        let at = violation.at.map_or("–".into(), |at| format!("{:.3} s", at as f64 / 1e9));
        let _ = write!(
            out,
            "<tr><td>{at}</td><td class=\"kind\">{:?}</td><td>{}{}</td></tr>",
            violation.kind,
            escape(&violation.text),
            involved(report.events, violation)
        );
    }
    out.push_str("</table></section>");
}

/// The events that name a message or client which the violation names.
fn involved(events: &[Recorded], violation: &Violation) -> String {
    let words = violation.text.split([' ', ',']).filter(|word| word.contains('@'));
    let words: Vec<_> = words.map(|word| word.trim_matches(|c: char| "():;\"".contains(c))).collect();
    if words.is_empty() {
        return String::new();
    }
    let names = |value: &Value| words.iter().any(|word| value.as_str().is_some_and(|text| text == *word));
    let about = |event: &&Recorded| event.of.as_object().is_some_and(|of| of.values().any(names));
    let near = |event: &&Recorded| {
        let message = event.of.get("message").is_some_and(names);
        message || violation.at.is_none_or(|at| event.at.abs_diff(at) < 1_000_000_000)
    };
    let lines = events.iter().filter(about).filter(near).take(WITH_VIOLATION);
    let lines: String = lines
        .map(|event| format!("{:>9.3} s  {:<12} {}\n", event.at as f64 / 1e9, event.event, json!(event.of)))
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    format!("<details><summary>what happened to it</summary><pre>{}</pre></details>", escape(&lines))
}

fn faults(out: &mut String, timeline: &Timeline) {
    if timeline.faults.is_empty() {
        return;
    }
    out.push_str("<section><h2>Faults</h2><table><tr><th>kind</th><th>where</th><th class=n>from</th><th class=n>until</th></tr>");
    for fault in &timeline.faults {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=n>{:.3} s</td><td class=n>{:.3} s</td></tr>",
            escape(&fault.kind),
            escape(&fault.nodes.join(", ")),
            fault.from as f64 / 1e9,
            fault.until as f64 / 1e9
        );
    }
    out.push_str("</table></section>");
}
