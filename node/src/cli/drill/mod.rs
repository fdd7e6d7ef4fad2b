//! `drill`: breaks a cluster of its own as a runbook says, waits for the alert, mends it, waits for its end.
//!
//! Everything is real but the pace: nodes are processes, Prometheus evaluates the shipped rules, Alertmanager has
//! the shipped routes. Invariant: nothing that a drill starts outlives it, whichever way it ends.

mod catalog;
mod faults;
mod files;
mod monitor;
mod nodes;
mod sink;
mod traffic;

use std::time::Duration;

use cluster::env::clock::{self, Instant};

use super::args::DrillArgs;
use super::failure::{Failure, failed};
use super::process::{local_runtime, print};
use super::signals::Signals;
use catalog::{DRILLS, Drill};
use faults::Broken;
use files::Pace;
use monitor::Monitor;
use nodes::Nodes;
use sink::{Sink, Told};
use traffic::Clients;

/// Plays one after the other.
const ALL: &str = "all";

/// The names that the command takes.
pub fn names() -> clap::builder::PossibleValuesParser {
    DRILLS.iter().map(|drill| drill.name).chain([ALL]).collect::<Vec<_>>().into()
}

/// Plays a drill.
///
/// # Errors
/// Programs that are not installed; an alert that does not come, or does not end; an interruption.
pub fn run(args: &DrillArgs) -> Result<(), Failure> {
    // One thread, because a child is killed when the very thread that made it ends.
    local_runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        for drill in DRILLS.iter().filter(|drill| args.name == ALL || args.name == drill.name) {
            let pace = Pace(args.speed_up.unwrap_or(drill.speed_up));
            play(drill, pace, &mut signals).await?;
        }
        Ok(())
    })
}

/// Starts everything, plays the drill, and ends everything, come what may.
async fn play(drill: &Drill, pace: Pace, signals: &mut Signals) -> Result<(), Failure> {
    let folder = tempfile::Builder::new().prefix("im-gateway-drill-").tempdir();
    let folder = folder.or_else(|error| failed(format!("cannot make a temporary folder: {error}")))?;
    let (mut nodes, mut monitor) = (None, None);
    let outcome = tokio::select! {
        biased;
        () = signals.stop() => failed("the drill was interrupted; everything that it had started is ended"),
        outcome = course(drill, pace, folder.path(), &mut nodes, &mut monitor) => outcome,
    };
    if let Some(monitor) = monitor {
        monitor.stop().await;
    }
    if let Some(mut nodes) = nodes {
        nodes.stop().await;
    }
    outcome
}

/// A timeline that is printed as it happens.
struct Timeline(Instant);

impl Timeline {
    fn tell(&self, what: &str) -> Result<(), Failure> {
        self.tell_at(clock::now(), what)
    }

    fn tell_at(&self, at: Instant, what: &str) -> Result<(), Failure> {
        print(&format!("{:>7.1} s  {what}", (at - self.0).as_secs_f64()))
    }
}

async fn course(
    drill: &Drill,
    pace: Pace,
    folder: &std::path::Path,
    place_of_nodes: &mut Option<Nodes>,
    place_of_monitor: &mut Option<Monitor>,
) -> Result<(), Failure> {
    let scrape = pace.scrape().as_secs_f64();
    let lowered = drill.threshold.map(|(_, lowered)| format!(", its threshold {lowered}")).unwrap_or_default();
    print(&format!(
        "drill {}: {}{lowered}\n{} times faster: `for` and windows are divided by it, nodes are scraped every \
         {scrape} s, and no window is shorter than four scrapes",
        drill.name, drill.alert, pace.0
    ))?;
    let timeline = Timeline(clock::now());
    let nodes = place_of_nodes.insert(Nodes::start(&folder.join("cluster")).await?);
    timeline.tell(&format!("three nodes are ready: {}", nodes.urls().join(" ")))?;
    let sink = Sink::start().await?;
    let addresses = nodes.addresses();
    *place_of_monitor = Some(Monitor::start(folder, pace, &addresses, &sink, drill.threshold).await?);
    timeline.tell("Prometheus and Alertmanager watch them")?;
    let clients = Clients::new(nodes.urls())?;
    let _crowd = faults::crowd(&clients).await?;
    let mut broken = Broken::default();

    let patience = pace.patience(Pace(drill.speed_up));
    let broke_at = clock::now();
    let what = broken.inject(drill.fault, nodes, &clients).await?;
    timeline.tell_at(broke_at, &format!("FAULT     {what}"))?;
    let fired = wait(&sink, drill.alert, patience, false, broke_at).await?;
    timeline.tell_at(fired.at, &format!("ALERT     {}: {}", fired.channel, fired.text))?;

    let mended_at = clock::now();
    let tell = |step: &str| timeline.tell(&format!("MEND      {step}"));
    broken.mend(drill.fault, nodes, &clients, &tell).await?;
    let resolved = wait(&sink, drill.alert, patience, true, mended_at).await?;
    timeline.tell_at(resolved.at, &format!("RESOLVED  {}: {}", resolved.channel, resolved.text))?;
    summarize(drill, pace, (broke_at, fired.at), (mended_at, resolved.at), &sink.told())
}

async fn wait(sink: &Sink, alert: &str, patience: Duration, resolved: bool, since: Instant) -> Result<Told, Failure> {
    match clock::timeout(patience, sink.wait(alert, resolved, since)).await {
        Ok(told) => Ok(told),
        Err(_) => {
            let what = if resolved { "ended" } else { "come" };
            failed(format!("{alert} had not {what} after {patience:?}: see the rules, and the routes of Alertmanager"))
        }
    }
}

fn summarize(
    drill: &Drill,
    pace: Pace,
    (broke, fired): (Instant, Instant),
    (mended, resolved): (Instant, Instant),
    told: &[Told],
) -> Result<(), Failure> {
    let to = |from: Instant, to: Instant| (to - from).as_secs_f64();
    let mut others: Vec<_> = told
        .iter()
        .filter(|told| !told.resolved && !told.text.contains(drill.alert) && told.channel.starts_with('#'))
        .map(|told| told.text.clone())
        .collect();
    others.sort_unstable();
    others.dedup();
    print(&format!(
        "time to detect {:.1} s, time to resolve {:.1} s ({} times faster than in production)",
        to(broke, fired),
        to(mended, resolved),
        pace.0
    ))?;
    if !others.is_empty() {
        print(&format!("also told: {}", others.join("; ")))?;
    }
    print("")
}
