//! A simulated month for a real Prometheus: what the objectives' rules read of each scrape, as
//! OpenMetrics text with the times of a calendar month, for `promtool tsdb create-blocks-from`.
//!
//! This format has no word for a series that breaks off, and Prometheus takes a value for good for five
//! minutes: a gauge that a scrape has no more is 0 there, which is the same in a sum.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::alerts::scrapes::{JOB, STEP_S, Sample, labelled};

/// When the month begins, in seconds since the Unix epoch: 2026-10-01.
pub const MONTH_S: u64 = 1_790_812_800;
/// Seconds of a day.
const DAY_S: u64 = 86_400;

/// Which of them are gauges.
const GAUGES: [&str; 2] = ["im_gateway_not_ready", "im_gateway_ready"];

/// The metrics that the objectives' rules read.
const READ: [&str; 5] = [
    "im_gateway_message_delivery_latency_seconds",
    "im_gateway_messages_delivered_total",
    "im_gateway_messages_failed_total",
    "im_gateway_not_ready",
    "im_gateway_ready",
];

/// The lines of an answer that the objectives' rules read.
pub fn read_by_rules(text: &str) -> String {
    let read = |line: &&str| READ.iter().any(|name| line.starts_with(name));
    text.lines().filter(read).flat_map(|line| [line, "\n"]).collect()
}

/// When day `n`, from 0, begins.
pub fn day_s(n: u64) -> u64 {
    MONTH_S + n * DAY_S
}

/// Writes a day's samples, the first at `from_s`. What has come later than a day after it, while the run
/// became quiet, is the next day's.
///
/// # Errors
/// When it cannot be written.
pub fn write(into: &Path, samples: &[Sample], from_s: u64) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(into)?);
    let mut shown: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for sample in samples {
        let at_s = from_s + sample.number as u64 * STEP_S;
        if at_s >= from_s + DAY_S {
            continue;
        }
        let up = u8::from(sample.text.is_some());
        writeln!(out, "up{{job=\"{JOB}\",instance=\"n{}:8080\"}} {up} {at_s}", sample.machine)?;
        let mut gauges = BTreeSet::new();
        let lines = sample.text.iter().flat_map(|text| text.lines());
        for (series, value) in lines.filter_map(|line| labelled(line, JOB, sample.machine)) {
            writeln!(out, "{series} {value} {at_s}")?;
            if is_gauge(&series) {
                gauges.insert(series);
            }
        }
        let before = shown.entry(sample.machine).or_default();
        end(&mut out, before.difference(&gauges), at_s)?;
        *before = gauges;
    }
    out.flush()
}

fn is_gauge(line: &str) -> bool {
    GAUGES.iter().any(|name| line.starts_with(name))
}

/// Ends gauges.
fn end<'a>(out: &mut impl Write, gauges: impl Iterator<Item = &'a String>, at_s: u64) -> io::Result<()> {
    gauges.into_iter().try_for_each(|series| writeln!(out, "{series} 0 {at_s}"))
}

/// Makes one file of all days, and says what to do with it. Gauges end with their day, as the next one is another
/// cluster's; but the last day's do not: what was scraped last is as it was.
///
/// # Errors
/// When a file cannot be read or written.
pub fn join(into: &Path, days: &[PathBuf]) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(into)?);
    let mut shown = BTreeSet::new();
    for (day, file) in days.iter().enumerate() {
        end(&mut out, shown.iter(), day_s(day as u64) - 1)?;
        shown.clear();
        for line in BufReader::new(File::open(file)?).lines() {
            let line = line?;
            writeln!(out, "{line}")?;
            if let Some(gauge) = line.split_once(' ').filter(|_| is_gauge(&line)) {
                shown.insert(gauge.0.to_owned());
            }
        }
        fs::remove_file(file)?;
    }
    out.write_all(b"# EOF\n")?;
    out.flush()?;
    println!("{}: for `promtool tsdb create-blocks-from openmetrics`; the month is 2026-10", into.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_as_prometheus_reads_it() {
        let text = "# HELP im_gateway_ready x\nim_gateway_ready{node=\"a\"} 1\nim_gateway_raft_term{node=\"a\"} 7\n";
        assert_eq!(read_by_rules(text), "im_gateway_ready{node=\"a\"} 1\n");
        let sample = |number, text: Option<&str>| Sample { number, machine: 1, text: text.map(read_by_rules) };
        let file = crate::child::scratch("day.om");
        let all = crate::child::scratch("month.om");
        let next = crate::child::scratch("next-day.om");
        let samples = [sample(0, Some(text)), sample(1, None), sample(2, Some(text)), sample(5760, Some(text))];
        write(&file, &samples, day_s(0)).expect("written");
        write(&next, &[sample(0, Some(text))], day_s(1)).expect("written");
        join(&all, &[file, next]).expect("joined");
        let target = "job=\"im-gateway-service\",instance=\"n1:8080\"";
        let ready = format!("im_gateway_ready{{{target},node=\"a\"}}");
        let expected = format!(
            "up{{{target}}} 1 1790812800\n{ready} 1 1790812800\nup{{{target}}} 0 1790812815\n{ready} 0 1790812815\n\
             up{{{target}}} 1 1790812830\n{ready} 1 1790812830\n{ready} 0 1790899199\n\
             up{{{target}}} 1 1790899200\n{ready} 1 1790899200\n# EOF\n"
        );
        assert_eq!(fs::read_to_string(&all).expect("read"), expected);
        fs::remove_file(all).expect("removed");
    }
}
