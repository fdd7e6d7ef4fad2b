//! The month's report as people read it. Pure.

use std::fmt::Write;

use super::month::{Month, moment};
use super::report::{Incident, Kept, MINUTE_S, Slo};

/// Incidents that are listed; of more, those that cost most.
const LISTED: usize = 20;
/// What 99% of deliveries are to take at most, in seconds.
const TARGET_S: f64 = 0.2;

/// What the report tells.
#[derive(Debug)]
pub struct Facts<'a> {
    pub month: Month,
    /// Each objective's.
    pub kept: &'a [Kept],
    /// 99th percentile of delivery latency, in seconds.
    pub p99_s: Option<f64>,
    /// Minutes of the month that are over.
    pub minutes_so_far: f64,
}

/// The report.
pub fn render(facts: &Facts) -> String {
    let mut out = format!("# IM Gateway Service - Monthly SLO Report\n**Month**: {}", facts.month);
    let whole = f64::from(facts.month.days()) * 1_440.0;
    if facts.minutes_so_far < whole {
        let _ = write!(out, " (the first {:.1} of {} days)", facts.minutes_so_far / 1_440.0, facts.month.days());
    }
    out += "\n\n## SLO Achievement\n";
    facts.kept.iter().for_each(|kept| achievement(&mut out, kept, facts.p99_s, whole));
    for kept in facts.kept.iter().filter(|kept| is_unseen(kept, facts.minutes_so_far)) {
        let seen = kept.observed_minutes / facts.minutes_so_far * 100.0;
        let _ = writeln!(
            out,
            "- Of {} there are samples for {seen:.1}% of the time; the rest is in no figure",
            kept.slo.label()
        );
    }
    out += "\n## Error Budget\n| Objective | Budget | Consumed | Remaining |\n|---|---|---|---|\n";
    facts.kept.iter().for_each(|kept| budget(&mut out, kept));
    out += "\n## Incidents\n";
    incidents(&mut out, facts.kept);
    out += "\n## Actions\n- To be written in the review: what mends the causes of the incidents above?\n";
    out += "\n## Next Month Goals\n- To be written in the review\n";
    out
}

fn is_unseen(kept: &Kept, minutes: f64) -> bool {
    kept.observed_minutes < minutes * 0.999
}

/// So many digits that what is missed does not look met: cut off, not rounded.
fn percent(share: f64) -> String {
    let text = format!("{:.4}", (share * 1e6 + 1e-6).floor() / 1e4);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The mark is the budget's: what is said beside it must say the same.
fn achievement(out: &mut String, kept: &Kept, p99_s: Option<f64>, whole_minutes: f64) {
    let is_met = kept.is_met();
    let mark = if is_met { "✅" } else { "❌" };
    let (name, objective) = (name(kept.slo), percent(kept.slo.objective()));
    let Some(achieved) = kept.achieved.map(percent) else {
        let _ = writeln!(out, "- {name}: no data (Target: {objective})");
        return;
    };
    // Where samples of some buckets are missing the two can differ: then the share, which the budget is of, counts.
    let p99_s = p99_s.filter(|p99_s| (*p99_s <= TARGET_S) == is_met);
    let _ = match (kept.slo, p99_s) {
        (Slo::Latency, Some(p99_s)) => {
            let p99_ms = p99_s * 1_000.0;
            writeln!(
                out,
                "- Latency (P99): {p99_ms:.0}ms {mark} (Target: < 200ms; {achieved} of deliveries were within it)"
            )
        }
        (Slo::Latency, None) => writeln!(out, "- Latency: {achieved} within 200ms {mark} (Target: {objective})"),
        (Slo::Availability, _) if is_unseen(kept, whole_minutes) => writeln!(
            out,
            "- {name}: {} of the month if the rest of it is good {mark} (Target: {objective}; {achieved} of the {} observed)",
            percent(kept.of_the_month()),
            time(kept.observed_minutes),
        ),
        _ => writeln!(out, "- {name}: {achieved} {mark} (Target: {objective})"),
    };
}

fn time(minutes: f64) -> String {
    match minutes {
        days if days >= 1_440.0 => format!("{:.1} days", days / 1_440.0),
        hours if hours >= 60.0 => format!("{:.1} hours", hours / 60.0),
        minutes => format!("{minutes:.1} minutes"),
    }
}

fn name(slo: Slo) -> &'static str {
    match slo {
        Slo::Availability => "Availability",
        Slo::Latency => "Latency",
        Slo::Success => "Success Rate",
    }
}

/// An amount of an objective's budget.
fn amount(slo: Slo, amount: f64) -> String {
    match slo {
        Slo::Availability => format!("{amount:.2} minutes"),
        Slo::Latency => format!("{amount:.0} slow deliveries"),
        Slo::Success => format!("{amount:.0} failed messages"),
    }
}

fn budget(out: &mut String, kept: &Kept) {
    let (slo, share) = (kept.slo, kept.consumed_share() * 100.0);
    let _ = writeln!(
        out,
        "| {} | {} | {} ({share:.1}%) | {} ({:.1}%) |",
        name(slo),
        amount(slo, kept.budget),
        amount(slo, kept.consumed),
        amount(slo, kept.left()),
        100.0 - share,
    );
}

fn incidents(out: &mut String, kept: &[Kept]) {
    let mut all: Vec<Incident> = kept.iter().flat_map(|kept| kept.incidents.iter().copied()).collect();
    if all.is_empty() {
        *out += "None.\n";
        return;
    }
    all.sort_by(|a, b| b.share.total_cmp(&a.share));
    let (more, rest) = (all.len().saturating_sub(LISTED), all.iter().skip(LISTED).map(|of| of.share).sum::<f64>());
    all.truncate(LISTED);
    all.sort_by_key(|incident| incident.from_s);
    for (n, incident) in all.iter().enumerate() {
        let minutes = (incident.until_s - incident.from_s) / MINUTE_S;
        let _ = writeln!(
            out,
            "{}. {} ({} UTC): {minutes} min, {}, {:.1}% of the budget",
            n + 1,
            name(incident.slo),
            moment(incident.from_s),
            amount(incident.slo, incident.bad),
            incident.share * 100.0,
        );
    }
    if more > 0 {
        let _ = writeln!(out, "\nAnd {more} smaller ones, {:.1}% of budgets together.", rest * 100.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Minute;
    use super::*;

    fn render_days(slo: Slo, minutes: &[Minute], p99_s: Option<f64>) -> String {
        let month: Month = "2026-11".parse().expect("a month");
        let kept = [Kept::of(slo, minutes, 43_200.0)];
        render(&Facts { month, kept: &kept, p99_s, minutes_so_far: 43_200.0 })
    }

    fn minutes(bad: impl Fn(i64) -> f64, total: f64) -> Vec<Minute> {
        let start = "2026-11".parse::<Month>().expect("a month").start_s();
        (0..43_200).map(|n| Minute { at_s: start + (n + 1) * MINUTE_S, seen_s: 60.0, bad: bad(n), total }).collect()
    }

    #[test]
    fn a_months_report() {
        let down = minutes(|n| f64::from((5..8).contains(&n)), 1.0);
        let text = render_days(Slo::Availability, &down, None);
        assert!(text.starts_with("# IM Gateway Service - Monthly SLO Report\n**Month**: November 2026\n"), "{text}");
        assert!(text.contains("- Availability: 99.993% ✅ (Target: 99.95%)\n"), "{text}");
        assert!(
            text.contains("| Availability | 21.60 minutes | 3.00 minutes (13.9%) | 18.60 minutes (86.1%) |"),
            "{text}"
        );
        assert!(
            text.contains("1. Availability (Nov 1 00:05 UTC): 3 min, 3.00 minutes, 13.9% of the budget\n"),
            "{text}"
        );
        for heading in ["## Actions", "## Next Month Goals"] {
            assert!(text.contains(heading));
        }
    }

    #[test]
    fn what_is_missed_does_not_look_met() {
        let text = render_days(Slo::Availability, &minutes(|_| 0.000_500_1, 1.0), None);
        assert!(text.contains("- Availability: 99.9499% ❌ (Target: 99.95%)\n"), "{text}");
        assert_eq!((percent(0.9995), percent(1.0), percent(0.99)), ("99.95%".into(), "100%".into(), "99%".into()));
        let slow = render_days(Slo::Latency, &minutes(|_| 0.2, 10.0), Some(0.3214));
        assert!(
            slow.contains("- Latency (P99): 321ms ❌ (Target: < 200ms; 98% of deliveries were within it)"),
            "{slow}"
        );
    }

    #[test]
    fn lines_agree_in_a_month_that_runs() {
        let hour: Vec<_> = minutes(|n| f64::from(n < 12), 1.0).into_iter().take(60).collect();
        let text = render_days(Slo::Availability, &hour, None);
        let line = "- Availability: 99.9722% of the month if the rest of it is good ✅ (Target: 99.95%; 80% of the \
                    1.0 hours observed)\n";
        assert!(text.contains(line) && text.contains("| 12.00 minutes (55.6%) |"), "{text}");
        // The buckets know of fewer deliveries than the share: it is the share that is told.
        let slow = render_days(Slo::Latency, &minutes(|_| 0.2, 10.0), Some(0.008));
        assert!(slow.contains("- Latency: 98% within 200ms ❌ (Target: 99%)") && !slow.contains("8ms"), "{slow}");
    }

    #[test]
    fn what_was_not_seen_is_said() {
        let half: Vec<_> = minutes(|_| 0.0, 1.0).into_iter().take(21_600).collect();
        let text = render_days(Slo::Success, &half, None);
        assert!(text.contains("Of success there are samples for 50.0% of the time"), "{text}");
        assert!(text.contains("## Incidents\nNone.\n"), "{text}");
        assert!(render_days(Slo::Success, &[], None).contains("- Success Rate: no data (Target: 99.99%)"));
    }
}
