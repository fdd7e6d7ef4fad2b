//! `bench`: load on a cluster, and what it makes of it.
//!
//! Invariant: nothing is left out of a figure because the cluster was slow. Messages have intended
//! moments that do not depend on answers, whatever was stored is waited for, and what does not
//! arrive is counted.

mod idle;
mod plan;
mod report;
mod servers;
mod traffic;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use cluster::env::clock;
use futures_util::future::join_all;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::args::BenchArgs;
use super::failure::{Failure, failed, usage};
use super::process::{local_runtime, print, runtime};
use idle::Crowd;
use plan::Plan;
use report::{Idle, Report, Storm, Times, Traffic, value};

/// Time for all pairs to connect before the first message.
const LEAD: Duration = Duration::from_secs(3);
/// Longest wait for a crowd to connect.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause after which the nodes' memory has settled: allocators return pages late.
const SETTLE: Duration = Duration::from_secs(5);
/// Connections beyond which one process runs out of files; the rest is for other files.
const FILES_SPARE: u64 = 64;

/// Runs the load generator.
///
/// # Errors
/// Flags that contradict each other; nodes that cannot be reached; messages lost.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    if args.pairs == 0 || args.rate.is_nan() || args.rate <= 0.0 {
        return usage("--pairs and --rate must be more than 0");
    }
    let files = im_gateway::env::raise_file_limit().unwrap_or(1_024);
    let connections = args.idle.unwrap_or((args.pairs + args.stalled) * 2) as u64;
    if connections + FILES_SPARE > files {
        return failed(format!(
            "{connections} connections need more open files than the {files} that one process may have; \
             ask for fewer, raise `ulimit -n`, or run several"
        ));
    }
    let runtime = if args.threads > 1 { runtime("bench", args.threads)? } else { local_runtime()? };
    let report = runtime.block_on(async {
        match args.idle {
            Some(size) => crowd(args, size).await,
            None => traffic(args).await,
        }
    })?;
    if args.json {
        print(&serde_json::to_string(&report).or_else(|error| failed(error.to_string()))?)?;
    } else {
        print(&report.table())?;
    }
    report.fault().map_or(Ok(()), failed)
}

async fn traffic(args: &BenchArgs) -> Result<Report, Failure> {
    let mut plan = Plan::new(args)?;
    let before = servers::reach(&plan).await?;
    plan.begin(LEAD, args.warmup, args.duration);
    let beside = Arc::new(plan.beside(args)?);
    let plan = Arc::new(plan);
    let mut tasks = Vec::new();
    for nth in 0..plan.pairs {
        let done = watch::Sender::new(None);
        tasks.push(tokio::spawn(traffic::receive(plan.clone(), nth, done.subscribe())));
        tasks.push(tokio::spawn(traffic::send(plan.clone(), nth, done)));
    }
    for nth in 0..beside.pairs {
        tasks.push(tokio::spawn(traffic::stall(beside.clone(), nth)));
        tasks.push(tokio::spawn(traffic::send(beside.clone(), nth, watch::Sender::new(None))));
    }
    for outcome in join_all(tasks).await {
        outcome.or_else(|error| failed(format!("the load generator broke: {error}")))??;
    }
    let after = servers::sample(&plan).await;
    if value(&plan.stats.stored) == 0 {
        return unreachable_nodes(&plan);
    }
    let traffic = Traffic::of(&plan.stats, &plan, args.duration);
    Ok(report(&plan, Some(traffic), None, servers::compare(&plan, &before, &after)))
}

async fn crowd(args: &BenchArgs, size: usize) -> Result<Report, Failure> {
    let mut plan = Plan::new(args)?;
    let before = servers::reach(&plan).await?;
    plan.begin(Duration::ZERO, Duration::ZERO, PATIENCE * 3 + SETTLE + args.duration);
    let plan = Arc::new(plan);
    let began = clock::now();
    let crowd = Crowd::gather(&plan, size)?;
    let connected = crowd.complete(PATIENCE).await;
    let connecting_s = began.elapsed().as_secs_f64();
    if connected == 0 {
        return unreachable_nodes(&plan);
    }
    clock::sleep(SETTLE).await;
    let after = servers::sample(&plan).await;
    let servers = servers::compare(&plan, &before, &after);
    let grown = servers.iter().map(|server| Some(server.resident_after_bytes? - server.resident_before_bytes?));
    let grown: Option<f64> = grown.sum();
    let storm = if args.storm { Some(storm(&plan, &crowd).await) } else { None };
    clock::sleep(args.duration).await;
    crowd.disperse().await;
    let idle = Idle {
        asked: size,
        connected,
        connecting_s,
        resident_bytes_per_connection: grown.map(|bytes| bytes / connected as f64),
        storm,
    };
    Ok(report(&plan, None, Some(idle), servers))
}

async fn storm(plan: &Plan, crowd: &Crowd) -> Storm {
    let began = clock::now();
    crowd.storm();
    let back = crowd.complete(PATIENCE).await;
    let all_back_s = began.elapsed().as_secs_f64();
    let p99_back_ms = Times::of(&plan.stats.outage_us).map_or(f64::NAN, |times| times.p99_ms);
    Storm { back, all_back_s, p99_back_ms }
}

fn report(plan: &Plan, traffic: Option<Traffic>, idle: Option<Idle>, servers: Vec<servers::Server>) -> Report {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let trouble = plan.stats.trouble.lock().expect("nobody panics while holding it").clone();
    Report {
        traffic,
        idle,
        connections_lost: value(&plan.stats.connections_lost),
        outages: Times::of(&plan.stats.outage_us),
        servers,
        generator_cpu_s: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        trouble,
    }
}

fn unreachable_nodes<T>(plan: &Plan) -> Result<T, Failure> {
    let trouble = plan.stats.trouble.lock().expect("nobody panics while holding it").clone();
    let trouble = trouble.unwrap_or_else(|| "no answer".to_owned());
    let token = if trouble.contains("token") { ", and that IMGW_JWT_SECRET is the nodes'" } else { "" };
    failed(format!("nothing came of it: {trouble}; check --url{token}"))
}
