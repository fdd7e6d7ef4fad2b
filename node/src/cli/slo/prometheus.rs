//! Asks Prometheus for a month, in pieces that it can answer.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, Uri};
use serde_json::Value;

use super::super::dial::Dial;
use super::super::failure::{Failure, failed};
use super::super::http::{Endpoint, decode, encode};
use super::report::{MINUTE_S, Minute, Slo};

/// Prometheus gives at most 11,000 points of a series at once.
const PIECE_S: i64 = 7 * 86_400;
const DAY_S: i64 = 86_400;
/// Whether anything was recorded is seen from one minute in so many.
const LOOK_S: i64 = 3_600;
/// A query over a week of rates computes for a while.
const DEADLINE: Duration = Duration::from_secs(120);
/// Looks at a minute, but not at the moment of its beginning: the minute before has that.
const MINUTE: &str = "59s999ms";
/// How often the shipped rules are evaluated.
const EVERY: &str = "15s";
/// How the nodes are scraped.
const JOB: &str = "job=\"im-gateway-service\"";

/// What is bad and what there is, per second, as the rules record it; and as they compute it, for a Prometheus that
/// did not record.
const RECORDED: [&str; 2] = ["slo:sli_bad:rate5m", "slo:sli_total:rate5m"];
const RULES: &str = include_str!("../../../../alerts/rules/slo.yml");

/// See the module.
pub struct Prometheus {
    endpoint: Endpoint,
    /// Of its API, where it is not at the root.
    path: String,
}

/// Points of a series: seconds since the Unix epoch, and values.
type Points = BTreeMap<i64, f64>;

impl Prometheus {
    /// The one at `url`: with its path, and with a user's name and password if it has them.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn new(url: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::Usage(format!("--prometheus: {why}; give such as http://prometheus:9090"));
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| wrong("this is no URL"))?;
        if uri.query().is_some() {
            return Err(wrong("a URL with a query is not Prometheus' own"));
        }
        // Not into messages: it may hold a password.
        let authority = uri.authority().ok_or_else(|| wrong("this URL names no host"))?.as_str();
        let (credentials, host) = authority.rsplit_once('@').map_or((None, authority), |(who, host)| (Some(who), host));
        let bare = format!("{}://{host}", uri.scheme_str().unwrap_or("http"));
        let dial = Dial::new([&bare], None)?;
        let endpoint = Endpoint::new(&bare, None, &dial).map_err(|_| wrong("this is no URL of a server"))?;
        let endpoint = match credentials {
            Some(credentials) => endpoint.with_password(&decode(credentials)),
            None => endpoint,
        };
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { endpoint: endpoint.of("Prometheus", DEADLINE), path })
    }

    /// The minutes of an objective for which there are samples, of this time.
    ///
    /// # Errors
    /// When Prometheus does not answer, or refuses.
    pub async fn minutes(&self, slo: Slo, from_s: i64, until_s: i64) -> Result<Vec<Minute>, Failure> {
        let mut ranges = RECORDED.map(|name| format!("{name}{{{JOB},slo=\"{label}\"}}[{MINUTE}]", label = slo.label()));
        let look = format!("count_over_time({})", ranges[1]);
        if self.series(&look, from_s + MINUTE_S, until_s, LOOK_S).await?.is_empty() {
            // Where nothing was scraped at all the rules would take the service for gone: rules run only while
            // Prometheus does, and this looks at times when it may not have.
            let seen = |name: &str| format!("({}) and on () count(up{{{JOB}}})", expression(name, Some(slo.label())));
            ranges = RECORDED.map(|name| format!("({})[{MINUTE}:{EVERY}]", seen(name)));
        }
        let [bad, total] = &ranges;
        let samples = self.in_pieces(&format!("count_over_time({total})"), PIECE_S, from_s, until_s).await?;
        let bad = self.in_pieces(&format!("avg_over_time({bad})"), PIECE_S, from_s, until_s).await?;
        let total = self.in_pieces(&format!("avg_over_time({total})"), PIECE_S, from_s, until_s).await?;
        let [samples, bad, total] = [samples, bad, total].map(joined);
        let whole = samples_of_a_minute(&samples);
        let minute = |(at_s, total): (i64, f64)| Minute {
            at_s,
            seen_s: (samples.get(&at_s).copied().unwrap_or(0.0) / whole).min(1.0) * MINUTE_S as f64,
            bad: bad.get(&at_s).copied().unwrap_or(0.0),
            total,
        };
        Ok(total.into_iter().map(minute).collect())
    }

    /// How many deliveries took at most how long, in these minutes of this time; the last edge is infinite.
    ///
    /// # Errors
    /// As [`Self::minutes`].
    pub async fn latencies(&self, minutes: &[Minute], from_s: i64, until_s: i64) -> Result<Vec<(f64, f64)>, Failure> {
        let query = format!("sum by (le) (rate(im_gateway_message_delivery_latency_seconds_bucket{{{JOB}}}[5m]))");
        let seen: BTreeMap<i64, f64> = minutes.iter().map(|minute| (minute.at_s, minute.seen_s)).collect();
        let mut buckets: BTreeMap<u64, f64> = BTreeMap::new();
        // By days: there are many edges.
        for (labels, points) in self.in_pieces(&query, DAY_S, from_s, until_s).await? {
            let Some(edge) = labels["le"].as_str().and_then(|edge| edge.parse::<f64>().ok()) else { continue };
            // Edges are positive: their bits are in their order.
            let sum = buckets.entry(edge.to_bits()).or_default();
            *sum += points.iter().map(|(at_s, rate)| rate * seen.get(at_s).copied().unwrap_or(0.0)).sum::<f64>();
        }
        Ok(buckets.into_iter().map(|(edge, count)| (f64::from_bits(edge), count)).collect())
    }

    /// Series with points at the end of each minute; one that goes on is there once for each piece.
    async fn in_pieces(
        &self,
        query: &str,
        piece_s: i64,
        from_s: i64,
        until_s: i64,
    ) -> Result<Vec<(Value, Points)>, Failure> {
        let mut all = Vec::new();
        let mut at = from_s;
        while at < until_s {
            let end = (at + piece_s).min(until_s);
            if at + MINUTE_S <= end {
                all.extend(self.series(query, at + MINUTE_S, end, MINUTE_S).await?);
            }
            at = end;
        }
        Ok(all)
    }

    async fn series(
        &self,
        query: &str,
        from_s: i64,
        until_s: i64,
        step_s: i64,
    ) -> Result<Vec<(Value, Points)>, Failure> {
        let query = encode(query);
        let path = format!("{}/api/v1/query_range?query={query}&start={from_s}&end={until_s}&step={step_s}", self.path);
        let answer = self.endpoint.request(Method::GET, &path).await;
        let answer = answer.or_else(|error| failed(format!("{error}; give another one by --prometheus")))?;
        let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if json["status"] != "success" {
            let why = json["error"].as_str().map_or_else(|| answer.text(), str::to_owned);
            return failed(format!("Prometheus answered {}: {why}", answer.status));
        }
        let series = json["data"]["result"].as_array().into_iter().flatten();
        Ok(series.map(|series| (series["metric"].clone(), points(&series["values"]))).collect())
    }
}

/// One series of its pieces.
fn joined(pieces: Vec<(Value, Points)>) -> Points {
    pieces.into_iter().flat_map(|(_, points)| points).collect()
}

/// Of a minute that was sampled from its beginning to its end, from how many samples each minute has: most have that
/// many, or one more where the interval is no part of a minute.
fn samples_of_a_minute(samples: &Points) -> f64 {
    let mut counts: Vec<f64> = samples.values().copied().collect();
    counts.sort_by(f64::total_cmp);
    counts.get(counts.len().saturating_sub(1) / 4).copied().unwrap_or(1.0)
}

fn points(values: &Value) -> Points {
    let point = |pair: &Value| {
        let value: f64 = pair[1].as_str()?.parse().ok()?;
        value.is_finite().then_some((pair[0].as_f64()? as i64, value))
    };
    values.as_array().into_iter().flatten().filter_map(point).collect()
}

/// What the shipped rules record under a name (and an objective).
fn expression(name: &str, slo: Option<&str>) -> String {
    let mut rules = RULES.split("- record: ").skip(1);
    let label = slo.map(|slo| format!("slo: {slo}}}"));
    let ours = |rule: &&str| {
        rule.lines().next() == Some(name) && label.as_ref().is_none_or(|label| rule.contains(label.as_str()))
    };
    let rule = rules.find(ours).expect("the shipped rules record it");
    let body = rule.split_once("expr:").map(|(_, body)| body).unwrap_or_default();
    let lines =
        body.trim_start_matches([' ', '|']).lines().take_while(|line| !line.trim_start().starts_with("labels:"));
    let code = lines.map(str::trim).take_while(|line| !line.starts_with('#')).filter(|line| !line.is_empty());
    let text = code.collect::<Vec<_>>().join(" ");
    // One of them is computed from another.
    let inner = "job:im_gateway_unavailable:ratio";
    if text.contains(inner) { text.replace(inner, &format!("({})", expression(inner, None))) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_minute_is_what_most_are() {
        let whole = |counts: &[f64]| samples_of_a_minute(&(0..).zip(counts.iter().copied()).collect());
        assert_eq!(whole(&[]), 1.0);
        assert_eq!(whole(&[1.0, 4.0, 4.0, 4.0, 4.0, 2.0, 4.0, 4.0, 4.0]), 4.0);
        assert_eq!(whole(&[1.0, 2.0, 1.0, 2.0, 1.0]), 1.0, "every 40 seconds");
    }

    #[test]
    fn the_rules_say_what_they_record() {
        for name in RECORDED {
            for slo in Slo::ALL {
                let text = expression(name, Some(slo.label()));
                assert!(!text.is_empty() && !text.contains("record") && !text.contains("labels"), "{text}");
                assert_eq!(text.matches('(').count(), text.matches(')').count(), "{text}");
            }
        }
        let bad = expression(RECORDED[0], Some("availability"));
        assert!(bad.contains("im_gateway_ready{") && !bad.contains("unavailable"), "{bad}");
        let total = expression(RECORDED[1], Some("latency"));
        assert_eq!(total, "sum by (job) (rate(im_gateway_message_delivery_latency_seconds_count[5m]))");
    }
}
