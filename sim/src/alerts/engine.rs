//! The rules, computed by `promtool test rules`.
//!
//! The tester compares and does not tell, so it is asked for what cannot be there: its complaint says
//! what was. The moments of the first and the last firing of each alert are all that is asked.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::scrapes::{JOB, STEP_S, Sample, input_series};
use crate::child;

/// When an alert rang, in seconds of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rang {
    /// For the first time.
    pub from_s: f64,
    /// For the last time.
    pub until_s: f64,
}

/// The moment of the last evaluation, in seconds of the run. There is always a second one: the engine
/// looks over a time that is not empty.
pub fn last_s(samples: &[Sample]) -> f64 {
    (samples.iter().map(|sample| sample.number).max().unwrap_or(0).max(1) as u64 * STEP_S) as f64
}

/// Which alerts rang, and when.
///
/// # Errors
/// No `promtool`, or one that cannot read the rules or the samples.
pub fn rang(samples: &[Sample]) -> io::Result<BTreeMap<String, Rang>> {
    let end = format!("{}s", last_s(samples));
    let query = |over: &str, of: &str| {
        let expr = format!(
            "{of} by (alertname) ({over}_over_time(timestamp(ALERTS{{alertstate=\"firing\"}})[{end}:{STEP_S}s]))"
        );
        json!({ "expr": expr, "eval_time": end, "exp_samples": [] })
    };
    let series = input_series(samples, JOB);
    let series: Vec<_> = series.iter().map(|(series, values)| json!({ "series": series, "values": values })).collect();
    let files = rules()?;
    // The rules are computed as often as there are scrapes.
    let test = json!({
        "rule_files": files,
        "evaluation_interval": format!("{STEP_S}s"),
        "group_eval_order": groups(&files)?,
        "tests": [{
            "interval": format!("{STEP_S}s"),
            "input_series": series,
            "promql_expr_test": [query("min", "min"), query("max", "max")],
        }],
    });
    // JSON is YAML.
    let file = child::scratch("alerts.yml");
    std::fs::write(&file, serde_json::to_vec(&test)?)?;
    let done = child::run_command(Command::new("promtool").args(["test", "rules"]).arg(&file));
    std::fs::remove_file(&file)?;
    let done = done.map_err(|error| {
        io::Error::other(format!("promtool does not run ({error}); install Prometheus (Debian: prometheus)"))
    })?;
    if done.code == 0 {
        return Ok(BTreeMap::new());
    }
    let unreadable = || io::Error::other(format!("promtool said what it should not:\n{}", done.said));
    let mut answers = done.said.split("got:").skip(1).map(values);
    let (first, last) = answers.next().zip(answers.next()).ok_or_else(unreadable)?;
    let both =
        first.into_iter().map(|(name, from_s)| Some((name.clone(), Rang { from_s, until_s: *last.get(&name)? })));
    both.collect::<Option<BTreeMap<_, _>>>().filter(|rang| !rang.is_empty()).ok_or_else(unreadable)
}

/// The rules that we ship.
fn rules() -> io::Result<Vec<PathBuf>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../alerts/rules");
    let files: io::Result<Vec<_>> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    let mut files: Vec<_> =
        files?.into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "yml")).collect();
    files.sort();
    Ok(files)
}

/// The groups of rules in the order of their files: the tester's own differs from run to run.
fn groups(files: &[PathBuf]) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file)?;
        names.extend(text.lines().filter_map(|line| line.trim().strip_prefix("- name: ")).map(str::to_owned));
    }
    Ok(names)
}

/// Values by `alertname`, from the tester's way to print a vector on one line.
fn values(answer: &str) -> BTreeMap<String, f64> {
    let line = answer.lines().next().unwrap_or_default();
    let parts = line.split("alertname=").skip(1);
    parts
        .filter_map(|part| {
            let (labels, rest) = part.split_once('}')?;
            let number: String =
                rest.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || ".+-".contains(*c)).collect();
            Some((labels.trim_matches(['"', '\\']).to_owned(), number.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_testers_complaint() {
        let line = "  \"{alertname=\\\"A\\\"} 3.45E+02, {alertname=\\\"B\\\"} 6E+01\"\n  next: alertname=\"C\"} 1";
        let expected = BTreeMap::from([("A".to_owned(), 345.0), ("B".to_owned(), 60.0)]);
        assert_eq!(values(line), expected);
        assert_eq!(values(" {alertname=\"A\"} 3.45E+02, {alertname=\"B\"} 6E+01\n"), expected);
        assert_eq!(values(" nil\n"), BTreeMap::new());
    }
}
