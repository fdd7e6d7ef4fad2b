//! `slo report`: a month of the service level objectives, from what Prometheus has kept.

mod markdown;
mod month;
mod prometheus;
mod report;

use cluster::env::clock;

use super::args::{SloCommand, SloReportArgs};
use super::failure::{Failure, failed};
use super::process::{local_runtime, print};
use markdown::Facts;
use prometheus::Prometheus;
use report::{Kept, MINUTE_S, Slo, quantile};

pub use month::Month;

/// Reports on objectives.
///
/// # Errors
/// See [`report`].
pub fn run(command: &SloCommand) -> Result<(), Failure> {
    let SloCommand::Report(args) = command;
    let text = local_runtime()?.block_on(report(args))?;
    print(text.trim_end())
}

/// A month's report, as Markdown.
///
/// # Errors
/// A Prometheus that does not answer; a month that has not begun, or of which nothing is known.
async fn report(args: &SloReportArgs) -> Result<String, Failure> {
    let month = args.month;
    let now_s = i64::try_from(clock::wall_ms() / 1_000).unwrap_or(i64::MAX);
    let (from_s, until_s) = (month.start_s(), month.end_s().min(now_s - now_s % MINUTE_S));
    if until_s <= from_s {
        return failed(format!("{month} has not begun; give a month that has"));
    }
    let prometheus = Prometheus::new(&args.prometheus)?;
    let whole = f64::from(month.days()) * 1_440.0;
    let (mut kept, mut latencies) = (Vec::new(), Vec::new());
    for slo in Slo::ALL {
        let minutes = prometheus.minutes(slo, from_s, until_s).await?;
        if slo == Slo::Latency {
            latencies = prometheus.latencies(&minutes, from_s, until_s).await?;
        }
        kept.push(Kept::of(slo, &minutes, whole));
    }
    if kept.iter().all(|kept| kept.observed_minutes == 0.0) {
        return failed(format!(
            "Prometheus has no samples of {month} for the job im-gateway-service; see --prometheus, and its retention"
        ));
    }
    let p99_s = quantile(0.99, &latencies);
    let minutes_so_far = (until_s - from_s) as f64 / MINUTE_S as f64;
    Ok(markdown::render(&Facts { month, kept: &kept, p99_s, minutes_so_far }))
}
