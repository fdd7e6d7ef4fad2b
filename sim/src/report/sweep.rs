//! A sweep's page: what was tried, what was met, what broke.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::svg::escape;
use super::{head, millis, percent, tile};
use crate::coverage::POINTS;
use crate::slo::{AVAILABILITY, P99_NS, SUCCESS, Slo};
use crate::summary::Summary;
use crate::sweep::Outcome;

/// The page.
pub fn page(title: &str, seeds: &[Outcome]) -> String {
    let mut out = head(title);
    let failed = seeds.iter().filter(|seed| seed.code != 0).count();
    let (word, class) = if failed == 0 { ("clean", "") } else { ("failed", "bad") };
    let _ = write!(out, "<h1>{}<span class=\"verdict {class}\">{word}</span></h1>", escape(title));
    let summaries: Vec<_> = seeds.iter().filter_map(|seed| seed.summary.as_ref()).collect();
    let mut slo = Slo::default();
    summaries.iter().for_each(|summary| slo.merge(&summary.slo));
    tiles(&mut out, seeds, &summaries, failed);
    objectives(&mut out, &slo);
    causes(&mut out, &slo);
    failures(&mut out, seeds);
    counts(&mut out, &summaries);
    out.push_str("</main></body></html>\n");
    out
}

fn tiles(out: &mut String, seeds: &[Outcome], summaries: &[&Summary], failed: usize) {
    let virtual_s: f64 = summaries.iter().map(|summary| summary.took as f64 / 1e9).sum();
    let wall_s: f64 = seeds.iter().map(|seed| seed.wall_ms as f64 / 1e3).sum();
    out.push_str("<div class=tiles>");
    tile(out, &seeds.len().to_string(), "seeds", false);
    tile(out, &failed.to_string(), "failed", failed > 0);
    // The rule of three: no failure among N says at most about 3/N, at 95 %.
    let bound = if failed == 0 {
        format!("< {}", percent(3.0 / seeds.len().max(1) as f64))
    } else {
        percent(failed as f64 / seeds.len() as f64)
    };
    tile(out, &bound, if failed == 0 { "of seeds fail, at 95 % (3/N)" } else { "of seeds fail" }, failed > 0);
    tile(out, &summaries.iter().map(|summary| summary.stored).sum::<usize>().to_string(), "messages stored", false);
    tile(
        out,
        &summaries.iter().map(|summary| summary.faults.values().sum::<u64>()).sum::<u64>().to_string(),
        "faults",
        false,
    );
    tile(out, &format!("{:.1} h", virtual_s / 3_600.0), "virtual time", false);
    tile(out, &format!("{:.0}×", virtual_s / wall_s.max(1e-9)), "real time, per core", false);
    out.push_str("</div>");
}

/// The objectives, as the clients of all runs together saw them.
fn objectives(out: &mut String, slo: &Slo) {
    let (availability, success) = slo.budget_spent();
    out.push_str("<section><h2>What users saw, all faults included</h2><table><tr><th>objective</th><th class=n>aim</th><th class=n>was</th><th class=n>error budget spent</th></tr>");
    for (name, aim, was, spent) in [
        ("availability by probes", percent(AVAILABILITY), percent(slo.availability()), Some(availability)),
        ("P99 delivery latency", format!("< {}", millis(P99_NS)), millis(slo.p99()), None),
        ("delivery success", percent(SUCCESS), percent(slo.success()), Some(success)),
    ] {
        let spent = spent.map_or("–".into(), |spent| format!("{:.0} %", spent * 100.0));
        let _ =
            write!(out, "<tr><td>{name}</td><td class=n>{aim}</td><td class=n>{was}</td><td class=n>{spent}</td></tr>");
    }
    out.push_str("</table></section>");
}

fn causes(out: &mut String, slo: &Slo) {
    if slo.causes.is_empty() {
        return;
    }
    let mut causes: Vec<_> = slo.causes.iter().collect();
    causes.sort_by_key(|(_, spent)| std::cmp::Reverse((spent.probes, spent.failed, spent.late)));
    out.push_str("<section><h2>Where it was spent</h2><table><tr><th>faults at the time</th><th class=n>failed probes</th><th class=n>failed messages</th><th class=n>late messages</th></tr>");
    for (cause, spent) in causes.into_iter().take(20) {
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{}</td></tr>",
            escape(&cause.replace('_', " ")),
            spent.probes,
            spent.failed,
            spent.late
        );
    }
    out.push_str("</table></section>");
}

fn failures(out: &mut String, seeds: &[Outcome]) {
    let failed: Vec<_> = seeds.iter().filter(|seed| seed.code != 0).collect();
    if failed.is_empty() {
        return;
    }
    out.push_str("<section><h2>Failures</h2><table><tr><th>seed</th><th>code</th><th>what</th></tr>");
    for seed in failed {
        let violations = seed.summary.iter().flat_map(|summary| &summary.violations);
        let text: Vec<_> =
            violations.take(4).map(|(kind, text)| format!("<span class=kind>{kind}</span> {}", escape(text))).collect();
        let text = if text.is_empty() { "it ended without a word".to_owned() } else { text.join("<br>") };
        let _ = write!(
            out,
            "<tr><td><code>cargo sim run --seed {}</code></td><td>{}</td><td>{text}</td></tr>",
            seed.seed, seed.code
        );
    }
    out.push_str("</table></section>");
}

fn counts(out: &mut String, summaries: &[&Summary]) {
    let mut faults: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut points: BTreeMap<&str, (u64, u64)> = POINTS.iter().map(|point| (*point, (0, 0))).collect();
    for summary in summaries {
        for (sums, counted) in [(&mut faults, &summary.faults), (&mut points, &summary.coverage)] {
            for (name, count) in counted {
                let (seeds, times) = sums.entry(name).or_default();
                *seeds += 1;
                *times += count;
            }
        }
    }
    for (title, sums) in [("Faults that happened", faults), ("Rare things that were met", points)] {
        let _ = write!(
            out,
            "<section><h2>{title}</h2><table><tr><th>what</th><th class=n>times</th><th class=n>in seeds</th><th></th></tr>"
        );
        for (name, (seeds, times)) in sums {
            let share = seeds as f64 / summaries.len().max(1) as f64 * 100.0;
            let (width, class) = if seeds == 0 { (100.0, "bad") } else { (share, "") };
            let _ = write!(
                out,
                "<tr><td>{}</td><td class=n>{times}</td><td class=n>{seeds}</td><td><div class=bar><i class=\"{class}\" style=\"width:{width:.1}%\"></i></div></td></tr>",
                escape(&name.replace('_', " "))
            );
        }
        out.push_str("</table></section>");
    }
}
