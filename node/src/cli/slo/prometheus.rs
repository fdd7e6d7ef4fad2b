//! Asks Prometheus for a month, in pieces that it can answer.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::super::dial::Dial;
use super::super::failure::{Failure, failed};
use super::super::http::{Endpoint, encode};
use super::report::{MINUTE_S, Minute, Slo};

/// Prometheus gives at most 11,000 points of a series at once.
const PIECE_S: i64 = 7 * 86_400;
const DAY_S: i64 = 86_400;
/// Whether anything was recorded is seen from one minute in so many.
const LOOK_S: i64 = 3_600;
/// A query over a week of rates computes for a while.
const DEADLINE: Duration = Duration::from_secs(120);
/// How the nodes are scraped.
const JOB: &str = "job=\"im-gateway-service\"";

/// What is bad and what there is, per second, as the rules record it; and as they compute it, for a Prometheus that
/// did not record.
const RECORDED: [&str; 2] = ["slo:sli_bad:rate5m", "slo:sli_total:rate5m"];
const RULES: &str = include_str!("../../../../alerts/rules/slo.yml");

/// See the module.
pub struct Prometheus(Endpoint);

/// Points of a series: seconds since the Unix epoch, and values.
type Points = BTreeMap<i64, f64>;

impl Prometheus {
    /// The one at `url`.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn new(url: &str) -> Result<Self, Failure> {
        let dial = Dial::new([&url.to_owned()], None)?;
        let endpoint =
            Endpoint::new(url, None, &dial).map_err(|error| Failure::Usage(format!("--prometheus: {error}")))?;
        Ok(Self(endpoint.of("Prometheus", DEADLINE)))
    }

    /// The minutes of an objective for which there are samples, of this time.
    ///
    /// # Errors
    /// When Prometheus does not answer, or refuses.
    pub async fn minutes(&self, slo: Slo, from_s: i64, until_s: i64) -> Result<Vec<Minute>, Failure> {
        let recorded = |name: &str| format!("avg_over_time({name}{{{JOB},slo=\"{}\"}}[1m])", slo.label());
        let mut queries = RECORDED.map(recorded);
        if self.range(&queries[1], from_s + MINUTE_S, until_s, LOOK_S).await?.is_empty() {
            // Where nothing was scraped at all the rules would take the service for gone: rules run only while
            // Prometheus does, and this looks at times when it may not have.
            let seen = |name: &str| format!("({}) and on () count(up{{{JOB}}})", expression(name, Some(slo.label())));
            queries = RECORDED.map(|name| format!("avg_over_time(({})[1m:15s])", seen(name)));
        }
        let [bad, total] =
            [self.in_pieces(&queries[0], from_s, until_s).await?, self.in_pieces(&queries[1], from_s, until_s).await?];
        let minute = |(at_s, total): (i64, f64)| {
            let bad = bad.get(&at_s).copied().unwrap_or(0.0);
            Minute { at_s, bad, total }
        };
        Ok(total.into_iter().map(minute).collect())
    }

    /// How many deliveries took at most how long, in this time; the last edge is infinite.
    ///
    /// # Errors
    /// As [`Self::minutes`].
    pub async fn latencies(&self, from_s: i64, until_s: i64) -> Result<Vec<(f64, f64)>, Failure> {
        // By days: Prometheus refuses to look at a month's samples at once.
        let mut buckets: BTreeMap<u64, f64> = BTreeMap::new();
        let mut at = from_s;
        while at < until_s {
            let end = (at + DAY_S).min(until_s);
            let length_s = end - at;
            let query = format!(
                "sum by (le) (increase(im_gateway_message_delivery_latency_seconds_bucket{{{JOB}}}[{length_s}s]))"
            );
            for (labels, points) in self.series(&query, end, end, DAY_S).await? {
                let Some(edge) = labels["le"].as_str().and_then(|edge| edge.parse::<f64>().ok()) else { continue };
                // Edges are positive: their bits are in their order.
                *buckets.entry(edge.to_bits()).or_default() += points.values().sum::<f64>();
            }
            at = end;
        }
        Ok(buckets.into_iter().map(|(edge, count)| (f64::from_bits(edge), count)).collect())
    }

    /// Points at the end of each minute.
    async fn in_pieces(&self, query: &str, from_s: i64, until_s: i64) -> Result<Points, Failure> {
        let mut points = Points::new();
        let mut at = from_s;
        while at < until_s {
            let end = (at + PIECE_S).min(until_s);
            points.extend(self.range(query, at + MINUTE_S, end, MINUTE_S).await?);
            at = end;
        }
        Ok(points)
    }

    /// The points of a query that gives one series.
    async fn range(&self, query: &str, from_s: i64, until_s: i64, step_s: i64) -> Result<Points, Failure> {
        if from_s > until_s {
            return Ok(Points::new());
        }
        let series = self.series(query, from_s, until_s, step_s).await?;
        Ok(series.into_iter().flat_map(|(_, points)| points).collect())
    }

    async fn series(
        &self,
        query: &str,
        from_s: i64,
        until_s: i64,
        step_s: i64,
    ) -> Result<Vec<(Value, Points)>, Failure> {
        let query = encode(query);
        let path = format!("/api/v1/query_range?query={query}&start={from_s}&end={until_s}&step={step_s}");
        let answer = self.0.request(Method::GET, &path).await;
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
