//! `serve`: one node, until it is told to stop; and the node that runs when no command is given.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use cluster::env::clock;
use cluster::observer::NoObserver;
use cluster::peer::Secret;
use cluster::{Cluster, ClusterConfig};
use im_gateway::env::terminated;

use super::args::ServeArgs;
use super::failure::{Failure, failed};
use super::process::{print, runtime};
use crate::config::{Config, DEV_CLUSTER_SECRET, Sources, load};

/// How long a node may take to stop in good order.
const STOP: Duration = Duration::from_secs(8);

/// Reads the configuration of `args` over `defaults` and checks it. The second value holds warnings.
fn configure(args: &ServeArgs, defaults: &Config) -> Result<(Config, Vec<String>), Failure> {
    let sources =
        Sources { file: args.config.clone(), environment: super::process::environment(), flags: args.overrides() };
    let (config, strange) = load(defaults, &sources)?;
    let config = config.check()?;
    let strange = strange.into_iter().map(|name| format!("{name} is no setting of im-gateway; ignored"));
    let warnings = strange.chain(config.warnings()).collect();
    Ok((config, warnings))
}

/// Runs a node.
///
/// # Errors
/// A bad configuration; a node that cannot start, or that had to stop.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let (config, warnings) = configure(args, &Config::default())?;
    if args.print_config {
        return print(config.print().trim_end());
    }
    if let Some(parent) = args.supervisor {
        super::process::die_with(parent)?;
    }
    node(config, &warnings, false)
}

/// Runs the single development node.
///
/// # Errors
/// As [`run`].
pub fn run_alone() -> Result<(), Failure> {
    let mut defaults = Config { dev: true, data: "data/dev".into(), ..Config::default() };
    defaults.cluster.bootstrap = true;
    defaults.log.level = "warn".into();
    let (config, warnings) = configure(&ServeArgs::default(), &defaults)?;
    node(config, &warnings, true)
}

fn node(config: Config, warnings: &[String], alone: bool) -> Result<(), Failure> {
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let or = |given: usize, default: usize| if given == 0 { default } else { given };
    // Apart, so that clients' work delays no heartbeat.
    let below = runtime("cluster", or(config.threads.cluster, cores.div_ceil(2).min(4)))?;
    let above = runtime("gateway", or(config.threads.gateway, cores))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if let Err(error) = im_gateway::env::raise_file_limit() {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    let env = im_gateway::env::open(&config.data).map_err(|error| Failure::Failed(error.to_string()))?;
    let started = below.block_on(Cluster::start(env.clone(), cluster_config(&config), Arc::new(NoObserver)));
    let cluster = started.map_err(|error| Failure::Failed(error.to_string()))?;
    let outcome = above.block_on(async {
        if alone {
            print(&welcome(&config))?;
        }
        tokio::select! {
            biased;
            why = cluster.failed() => failed(why),
            signal = terminated() => signal.map(drop).or_else(|error| failed(format!("cannot wait for signals: {error}"))),
        }
    });
    let stopping = below.block_on(async { clock::timeout(STOP, cluster.stop()).await });
    if stopping.is_err() {
        tracing::warn!("the node did not stop in order within {STOP:?}");
    }
    // Whatever still runs holds nothing that was promised.
    above.shutdown_timeout(Duration::from_millis(100));
    below.shutdown_timeout(Duration::from_secs(1));
    outcome
}

fn cluster_config(config: &Config) -> ClusterConfig {
    let secret = config.cluster.secret.as_ref().map_or(DEV_CLUSTER_SECRET, |secret| secret.reveal());
    ClusterConfig {
        peer_listen: config.listen.peer.clone(),
        peer_advertise: config.advertise.peer.clone(),
        client_url: config.advertise.http.clone().unwrap_or_default(),
        join: config.cluster.join.clone(),
        bootstrap: config.cluster.bootstrap,
        secret: Secret::new(secret),
        voters: config.cluster.voters,
        limits: config.cluster.limits.clone(),
    }
}

/// What the single node tells whoever started it.
fn welcome(config: &Config) -> String {
    let url = format!("http://{}", config.listen.http);
    format!(
        "im-gateway, a single development node, data in {}\n\n  \
         Open {url} in two tabs and chat.\n  \
         In a terminal:   im-gateway chat --user alice --to bob\n  \
         Three nodes:     end this one with Ctrl-C, then im-gateway up\n",
        config.data.display()
    )
}
