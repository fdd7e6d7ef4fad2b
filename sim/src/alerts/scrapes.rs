//! What a monitoring system has of a run: every answer to a scrape, and every scrape without one.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

/// One scrape of one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its number among the scrapes of that machine, from 0; they are one period apart.
    pub number: usize,
    /// Whose, by its number.
    pub machine: usize,
    /// The text of the answer; none, if the node was down for Prometheus.
    pub text: Option<String>,
}

/// Writes samples as JSON lines.
///
/// # Errors
/// When they cannot be written.
pub fn write(into: &mut impl Write, samples: &[Sample]) -> io::Result<()> {
    for sample in samples {
        serde_json::to_writer(&mut *into, sample)?;
        into.write_all(b"\n")?;
    }
    Ok(())
}

/// Reads what [`write`] has written.
///
/// # Errors
/// When it cannot be read, or is something else.
pub fn read(from: impl BufRead) -> io::Result<Vec<Sample>> {
    from.lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

/// Between two scrapes of a run that is monitored, in seconds.
pub const STEP_S: u64 = 15;
/// The job of the nodes, in the rules.
pub const JOB: &str = "im-gateway-service";

/// Which scrapes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// None.
    Nothing,
    /// All.
    Everything,
    /// Of each what the objectives' rules read: a day of it fits into memory.
    Objectives,
}

/// A line of an answer as a series with the labels that Prometheus adds, and its value; none, if it is
/// a comment.
pub fn labelled<'a>(line: &'a str, job: &str, machine: usize) -> Option<(String, &'a str)> {
    let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let target = format!("job=\"{job}\",instance=\"n{machine}:8080\"");
    let series = match series.split_once('{') {
        Some((name, labels)) => format!("{name}{{{target},{labels}"),
        None => format!("{series}{{{target}}}"),
    };
    Some((series, value))
}

/// A series, and its values by number of the scrape.
type Series = BTreeMap<String, BTreeMap<usize, String>>;

/// The samples as `input_series` of `promtool test rules`: stale from a scrape that had no answer, or
/// not this series, until it is there again. `job` is the label that the rules know the nodes by.
pub fn input_series(samples: &[Sample], job: &str) -> Vec<(String, String)> {
    let mut all = Series::new();
    let count = samples.iter().map(|sample| sample.number + 1).max().unwrap_or(0);
    for sample in samples {
        let up = if sample.text.is_some() { "up 1" } else { "up 0" };
        let lines = std::iter::once(up).chain(sample.text.iter().flat_map(|text| text.lines()));
        for (series, value) in lines.filter_map(|line| labelled(line, job, sample.machine)) {
            all.entry(series).or_default().insert(sample.number, value.to_owned());
        }
    }
    all.into_iter().map(|(series, values)| (series, notation(&values, count))).collect()
}

/// `promtool`'s notation of values: `_` before the first, `stale` where they break off.
fn notation(values: &BTreeMap<usize, String>, count: usize) -> String {
    let mut shown = false;
    let words: Vec<&str> = (0..count)
        .map(|number| match values.get(&number) {
            Some(value) => {
                shown = true;
                value.as_str()
            }
            None if std::mem::take(&mut shown) => "stale",
            None => "_",
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: usize, text: Option<&str>) -> Sample {
        Sample { number, machine: 2, text: text.map(str::to_owned) }
    }

    #[test]
    fn gaps_are_stale_and_labels_are_added() {
        let samples = [
            sample(0, None),
            sample(1, Some("# HELP a b\na_total{node=\"x\"} 1\nb 2.5\n")),
            sample(2, None),
            sample(3, None),
            sample(4, Some("a_total{node=\"x\"} 0\n")),
        ];
        let mut file = Vec::new();
        write(&mut file, &samples).expect("written");
        assert_eq!(read(&file[..]).expect("read"), samples);
        let target = "job=\"j\",instance=\"n2:8080\"";
        let expected = [
            (format!("a_total{{{target},node=\"x\"}}"), "_ 1 stale _ 0".to_owned()),
            (format!("b{{{target}}}"), "_ 2.5 stale _ _".to_owned()),
            (format!("up{{{target}}}"), "0 1 0 0 1".to_owned()),
        ];
        assert_eq!(input_series(&samples, "j"), expected);
    }
}
