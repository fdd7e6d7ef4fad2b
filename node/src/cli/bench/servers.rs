//! What the nodes say of themselves before and after a run.

use futures_util::future::join_all;
use http::Method;
use serde::Serialize;

use super::super::failure::{Failure, failed};
use super::super::http::Endpoint;
use super::plan::Plan;

/// One node's own figures at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    pub resident_bytes: Option<f64>,
    pub cpu_s: Option<f64>,
}

/// One node's figures over a run.
#[derive(Debug, Serialize)]
pub struct Server {
    pub address: String,
    pub resident_before_bytes: Option<f64>,
    pub resident_after_bytes: Option<f64>,
    pub cpu_s: Option<f64>,
}

/// Asks every node before a run; one that does not answer has no figures.
///
/// # Errors
/// When none answers: there is nothing to measure.
pub async fn reach(plan: &Plan) -> Result<Vec<Sample>, Failure> {
    let samples = ask(plan).await;
    match samples.iter().find_map(|sample| sample.as_ref().err()) {
        Some(error) if samples.iter().all(Result::is_err) => {
            failed(format!("{error}; see that it runs, or give other nodes by --url"))
        }
        _ => Ok(samples.into_iter().map(Result::unwrap_or_default).collect()),
    }
}

/// Asks every node after a run, as [`reach`] did before.
pub async fn sample(plan: &Plan) -> Vec<Sample> {
    ask(plan).await.into_iter().map(Result::unwrap_or_default).collect()
}

async fn ask(plan: &Plan) -> Vec<Result<Sample, String>> {
    join_all(plan.addresses.iter().map(|address| async {
        let endpoint = Endpoint::new(&address.base(), None, &plan.dial).map_err(|error| error.to_string())?;
        let answer = endpoint.request(Method::GET, "/metrics").await?;
        let text = answer.text();
        Ok(Sample {
            resident_bytes: gauge(&text, "process_resident_memory_bytes"),
            cpu_s: gauge(&text, "process_cpu_seconds_total"),
        })
    }))
    .await
}

/// What changed between two samples.
pub fn compare(plan: &Plan, before: &[Sample], after: &[Sample]) -> Vec<Server> {
    let samples = before.iter().zip(after);
    let server = |(address, (before, after)): (&im_gateway::client::Address, (&Sample, &Sample))| Server {
        address: address.authority.clone(),
        resident_before_bytes: before.resident_bytes,
        resident_after_bytes: after.resident_bytes,
        cpu_s: before.cpu_s.zip(after.cpu_s).map(|(before, after)| after - before),
    };
    plan.addresses.iter().zip(samples).map(server).collect()
}

/// The value of a metric in Prometheus text, whatever its labels.
fn gauge(text: &str, name: &str) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{')))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_gauge() {
        let text = "# TYPE a gauge\na_b 1\na{node=\"x y\"} 2.5e3\nc 4\n";
        assert_eq!(gauge(text, "a"), Some(2_500.0));
        assert_eq!(gauge(text, "c"), Some(4.0));
        assert_eq!(gauge(text, "d"), None);
    }
}
