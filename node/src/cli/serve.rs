//! `serve`: one node, until it is told to stop; and the node that runs when no command is given.

use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use cluster::env::{Env, Net, clock};
use cluster::{Cluster, StartError};
use im_gateway::auth::{AuthConfig, AuthConfigError, Jwks, KeyServer, Verifier};
use im_gateway::env::{OpenError, RESERVED_FILES, Tls, TlsError, TlsFiles, outward, raise_file_limit, terminated};
use im_gateway::gateway::{Gateway, GatewayConfig, GatewayError};
use im_gateway::telemetry::logs::{Line, LineSink, Tap};
use im_gateway::telemetry::{Levels, Metrics, Otlp, SpanSink};
use tokio::runtime::{Handle, Runtime};

use super::args::ServeArgs;
use super::failure::{Failure, failed};
use super::process::{print, program, runtime};
use crate::config::{Config, Sources, load};

/// How long a node may take to stop in good order.
const STOP: Duration = Duration::from_secs(8);
/// How long the server of tokens' keys may fail while a node starts, and when it is asked again.
const KEYS_WITHIN: Duration = Duration::from_secs(15);
const KEYS_AGAIN: Duration = Duration::from_secs(3);
/// How long the collector may take to hear the last spans, and then the last lines.
const FLUSH: Duration = Duration::from_secs(2);

/// Reads the configuration of `args` over `defaults` and checks it. The second value holds warnings.
fn configure(args: &ServeArgs, defaults: &Config) -> Result<(Config, Vec<String>), Failure> {
    let sources =
        Sources { file: args.config.clone(), environment: super::process::environment(), flags: args.overrides() };
    let (mut config, strange) = load(defaults, &sources)?;
    // Others are told the port, so it is chosen before anything listens.
    for address in [&mut config.listen.http, &mut config.listen.peer] {
        if let Some(host) = address.strip_suffix(":0") {
            let port = TcpListener::bind(&*address).and_then(|listener| Ok(listener.local_addr()?.port()));
            *address = format!("{host}:{}", port.or_else(|error| failed(format!("no free port on {host}: {error}")))?);
        }
    }
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
    node(&config, &warnings, false)
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
    node(&config, &warnings, true)
}

fn node(config: &Config, warnings: &[String], alone: bool) -> Result<(), Failure> {
    let tap = Tap::default();
    let levels = super::log::start(&config.log, tap.clone())?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    im_gateway::env::end_process_on_panic();
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let or = |given: usize, default: usize| if given == 0 { default } else { given };
    // Apart, so that clients' work delays no heartbeat.
    let below = runtime("cluster", or(config.threads.cluster, cores.div_ceil(2).min(4)))?;
    let above = runtime("gateway", or(config.threads.gateway, cores))?;
    let telemetry = Telemetry { config, tap, metrics: Arc::new(Metrics::new()), runtime: above.handle().clone() };
    let (outcome, otlp) = match start(config, levels, (&below, &above), &telemetry) {
        Ok((cluster, gateway, otlp)) => {
            let outcome = above.block_on(serve(config, gateway, &cluster, alone));
            if below.block_on(async { clock::timeout(STOP, cluster.stop()).await }).is_err() {
                tracing::warn!("the node did not stop in order within {STOP:?}");
            }
            (outcome, otlp)
        }
        // Why a node does not start is to be found where its lines are.
        Err(failure) => (Err(failure), telemetry.export("").unwrap_or_default()),
    };
    if let Err(failure) = &outcome {
        telemetry.tap.take(Line::fatal(&failure.to_string()));
    }
    if let Some(otlp) = otlp {
        otlp.stop(FLUSH);
    }
    // Whatever still runs holds nothing that was promised.
    above.shutdown_timeout(Duration::from_millis(100));
    below.shutdown_timeout(Duration::from_secs(1));
    outcome
}

type Starting = Pin<Box<dyn Future<Output = Result<Gateway, GatewayError>>>>;
type Exporter = Option<Arc<Otlp>>;

/// The node in its cluster, what will serve its clients, and the way to its collector.
fn start(
    config: &Config,
    levels: Arc<Levels>,
    (below, above): (&Runtime, &Runtime),
    telemetry: &Telemetry<'_>,
) -> Result<(Cluster, Starting, Exporter), Failure> {
    let metrics = &telemetry.metrics;
    let streams = room_for_clients()?;
    // Looked at before anything has begun, so that a taken port leaves nothing behind.
    if let Err(error) = TcpListener::bind(&config.listen.http) {
        return failed(taken("clients", &config.listen.http, &error, "--http or IMGW_HTTP"));
    }
    let env = im_gateway::env::open(&config.data).or_else(|error| {
        failed(match error {
            OpenError::Io { .. } => format!("{error}; check its permissions, or choose another --data or IMGW_DATA"),
            error => error.to_string(),
        })
    })?;
    let verifier = Arc::new(above.block_on(verifier(&config.auth))?);
    let env = metrics.watch_disk(env);
    above.spawn(metrics.clone().watch_data(config.data.clone()));
    let (for_nodes, for_clients) = secured(config, &env, metrics, above)?;
    let starting = Cluster::start(for_nodes, config.cluster(), metrics.clone());
    let cluster = below.block_on(starting).or_else(|error| failed(explain(&error)))?;
    let otlp = telemetry.export(&cluster.node_id().to_string())?;
    let mut gateway = GatewayConfig { streams, levels: Some(levels), ..config.gateway() };
    gateway.verifier = Some(verifier);
    gateway.traces.sink = otlp.clone().map(|otlp| otlp as Arc<dyn SpanSink>);
    let starting = Gateway::start(for_clients, cluster.clone(), gateway, metrics.clone());
    Ok((cluster, Box::pin(starting), otlp))
}

/// What a node tells of itself.
struct Telemetry<'a> {
    config: &'a Config,
    tap: Tap,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

impl Telemetry<'_> {
    /// Opens the way to the collector, if there is one; log lines go it from here on, those of before first.
    fn export(&self, node: &str) -> Result<Exporter, Failure> {
        let start = |otlp| Otlp::start(&otlp, node, &self.metrics, self.runtime.clone()).map(Arc::new);
        let otlp = self.config.otlp().map(start).transpose().or_else(|error| failed(error.to_string()))?;
        self.tap.open(otlp.clone().map(|otlp| otlp as Arc<dyn LineSink>));
        Ok(otlp)
    }
}

/// What checks tokens. Without keys a node could only turn everybody away, so it begins nothing before it has them.
async fn verifier(auth: &AuthConfig) -> Result<Verifier, Failure> {
    let server = match &auth.jwks {
        Some(Jwks::Url(url)) => Some(KeyServer(outward(url.address.tls).or_else(|error| failed(error.to_string()))?)),
        _ => None,
    };
    let give_up = clock::now() + KEYS_WITHIN;
    loop {
        match Verifier::open(auth, server.clone()).await {
            Err(error @ AuthConfigError::Fetch { .. }) if clock::now() < give_up => {
                tracing::warn!(%error, "trying again");
                clock::sleep(KEYS_AGAIN).await;
            }
            opened => return opened.or_else(|error| failed(error.to_string())),
        }
    }
}

type MakeTls = fn(Arc<dyn Net>, TlsFiles) -> Result<Tls, TlsError>;

/// The environment of each side, with TLS where it is configured, and new certificates taken up.
fn secured(config: &Config, env: &Env, metrics: &Arc<Metrics>, runtime: &Runtime) -> Result<(Env, Env), Failure> {
    let secure = |port: &'static str, files: Option<TlsFiles>, make: MakeTls| -> Result<Env, Failure> {
        let Some(files) = files else { return Ok(env.clone()) };
        let made = make(env.net.clone(), files);
        let tls = Arc::new(made.or_else(|error| failed(error.to_string()))?);
        let metrics = metrics.clone();
        runtime.spawn(tls.clone().watch(port, move |ends_s| metrics.certificate_ends(port, ends_s)));
        Ok(Env { net: tls, ..env.clone() })
    };
    Ok((
        secure("nodes", config.tls.peer.files(), Tls::for_peers)?,
        secure("clients", config.tls.http.files(), Tls::for_clients)?,
    ))
}

/// Streams that clients may have open beside the files that the node itself needs.
fn room_for_clients() -> Result<usize, Failure> {
    const FEWEST: u64 = 64;
    let files = raise_file_limit().or_else(|error| failed(format!("cannot read the limit on open files: {error}")))?;
    match files.checked_sub(RESERVED_FILES).filter(|streams| *streams >= FEWEST) {
        Some(streams) => Ok(usize::try_from(streams).unwrap_or(usize::MAX)),
        None => failed(format!(
            "this process may open {files} files, and a node needs at least {}: raise the limit \
             (ulimit -Hn, or LimitNOFILE= of its service)",
            RESERVED_FILES + FEWEST
        )),
    }
}

/// Serves clients until the process is told to stop, or the node cannot go on.
async fn serve(
    config: &Config,
    starting: impl Future<Output = Result<Gateway, GatewayError>>,
    cluster: &Cluster,
    alone: bool,
) -> Result<(), Failure> {
    let gateway = starting.await.or_else(|error| failed(error.to_string()))?;
    tracing::info!(node = %cluster.node_id(), listen = %gateway.local_addr(), "serving clients");
    for (port, tls) in [("clients", &config.tls.http), ("nodes", &config.tls.peer)] {
        if tls.cert.is_none() {
            tracing::info!(port, "in the clear: no TLS is configured for this port");
        }
    }
    if alone {
        print(&welcome(config))?;
    }
    let signal = tokio::select! {
        biased;
        why = cluster.failed() => return failed(why),
        signal = terminated() => signal.or_else(|error| failed(format!("cannot wait for signals: {error}")))?,
    };
    tracing::info!(signal, "stopping");
    gateway.stop().await;
    Ok(())
}

/// Why the node did not start, with what its commands are called.
fn explain(error: &StartError) -> String {
    match error {
        StartError::Alone => {
            "the data folder is empty: start the first node of a cluster with --bootstrap, and the others with \
             --join HOST:PORT, the peer address of one that runs"
                .to_owned()
        }
        StartError::Listen { addr, error } => taken("other nodes", addr, error, "--peer or IMGW_PEER"),
        error => error.to_string(),
    }
}

/// Why an address cannot be listened on, with what its setting is called.
fn taken(whom: &str, addr: &str, error: &std::io::Error, setting: &str) -> String {
    format!("cannot listen for {whom} on {addr}: {error}; end what listens there, or choose another {setting}")
}

/// What the single node tells whoever started it.
fn welcome(config: &Config) -> String {
    let secured = config.tls.http.cert.is_some();
    let (url, program) = (format!("{}://{}", if secured { "https" } else { "http" }, config.listen.http), program());
    let clear = if secured { "" } else { "  In the clear, without TLS: for this machine only.\n" };
    let other =
        if config.listen.http == Config::default().listen.http { String::new() } else { format!(" --url {url}") };
    format!(
        "im-gateway, a single development node, data in {}\n\n  \
         Open {url} in two tabs and chat.\n  \
         In a terminal:   {program} chat --user alice --to bob{other}\n  \
         Three nodes:     end this one with Ctrl-C, then {program} up\n{clear}",
        config.data.display()
    )
}
