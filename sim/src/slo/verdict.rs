//! Many days of a scenario, one process each, held against the objectives.

use std::io;
use std::path::Path;

use super::{AVAILABILITY, P99_NS, SUCCESS, Slo, openmetrics};
use crate::child;
use crate::oracle::ViolationKind;
use crate::report;
use crate::sweep::{self, Outcome};

/// Plays `days` days of `scenario`, `jobs` at a time, the first under `seed`; prints the verdict, and
/// writes a page where `page` says, and a month for Prometheus where `month` says. Returns the most telling kind of
/// failure; an objective that is missed is a broken promise.
///
/// # Errors
/// When processes cannot be started, or a file not be written.
pub fn days(
    scenario: &str,
    seed: u64,
    days: u64,
    jobs: usize,
    page: Option<&Path>,
    month: Option<&Path>,
) -> io::Result<Option<ViolationKind>> {
    let day_file = |path: &Path, day: u64| path.with_extension(format!("day-{day}"));
    let args = |number: u64| {
        let mut args = ["run", "--scenario", scenario, "--seed", &number.to_string()].map(str::to_owned).to_vec();
        if let Some(path) = month {
            let day = number - seed;
            let file = day_file(path, day).to_string_lossy().into_owned();
            args.extend(["--openmetrics".to_owned(), file, "--day".to_owned(), day.to_string()]);
        }
        args
    };
    let replay = |seed: u64| format!("cargo sim run --scenario {scenario} --seed {seed}");
    let done = sweep::each(seed..seed + days, jobs, &args, &replay)?;
    let mut slo = Slo::default();
    done.iter().filter_map(|day| day.summary.as_ref()).for_each(|summary| slo.merge(&summary.slo));
    print!("{}", table(scenario, &slo, &done));
    if let Some(page) = page {
        std::fs::write(page, report::sweep_page(&format!("{days} days of the scenario {scenario}"), &done))?;
    }
    if let Some(path) = month {
        let files: Vec<_> = (0..days).map(|day| day_file(path, day)).collect();
        openmetrics::join(path, &files)?;
    }
    let missed = (!slo.is_met()).then_some(ViolationKind::Safety);
    Ok(child::worst(done.iter().map(|day| day.code)).into_iter().chain(missed).min())
}

fn percent(share: f64) -> String {
    format!("{:.4} %", share * 100.0)
}

/// The verdict, for people.
fn table(scenario: &str, slo: &Slo, days: &[Outcome]) -> String {
    let broken = days.iter().filter(|day| day.code != 0).count();
    let (availability, success) = slo.budget_spent();
    let word = |met: bool| if met { "met" } else { "MISSED" };
    let mut out = format!("{} days of {scenario}: {broken} broke a promise\n", days.len());
    out += &format!("{:<14}{:>12}{:>12}{:>14}\n", "", "objective", "was", "budget spent");
    for (name, objective, was, spent, met) in [
        ("availability", percent(AVAILABILITY), percent(slo.availability()), Some(availability), availability <= 1.0),
        (
            "P99 latency",
            format!("{} ms", P99_NS / 1_000_000),
            format!("{:.1} ms", slo.p99() as f64 / 1e6),
            None,
            slo.p99() < P99_NS,
        ),
        ("success", percent(SUCCESS), percent(slo.success()), Some(success), success <= 1.0),
    ] {
        let spent = spent.map_or("–".to_owned(), |spent| format!("{:.1} %", spent * 100.0));
        out += &format!("{name:<14}{objective:>12}{was:>12}{spent:>14}  {}\n", word(met));
    }
    out += &format!(
        "{} of {} probes failed, {} of {} messages\n",
        slo.failed_probes,
        slo.probes,
        slo.failed,
        slo.delivered + slo.failed
    );
    let mut causes: Vec<_> = slo.causes.iter().collect();
    causes.sort_by_key(|(_, spent)| std::cmp::Reverse((spent.probes, spent.failed, spent.late)));
    for (cause, spent) in causes {
        let (probes, failed, late) = (spent.probes, spent.failed, spent.late);
        out += &format!("  {cause}: {probes} probes and {failed} messages failed, {late} came late\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_met_and_what_not() {
        let slo = Slo { probes: 10_000, failed_probes: 6, delivered: 100, ..Slo::default() };
        let text = table("month", &slo, &[]);
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).expect("it is there").to_owned();
        assert!(line("availability").contains("120.0 %") && line("availability").ends_with("MISSED"), "{text}");
        assert!(line("success").ends_with("met") && line("P99").ends_with("met"), "{text}");
    }
}
