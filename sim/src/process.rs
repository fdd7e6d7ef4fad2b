//! What one node's process runs: the production cluster and gateway.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cluster::env::{Env, clock};
use cluster::{Cluster, ClusterConfig};
use im_gateway::auth::{AuthConfig, Masked};
use im_gateway::gateway::{Gateway, GatewayConfig};
use im_gateway::telemetry::{Metrics, SpanSink, TraceConfig};

/// What clients' tokens are signed with.
pub const TOKEN_SECRET: &str = "the simulated clients' secret";
/// What administers nodes.
pub const ADMIN_TOKEN: &str = "the-simulated-operators-token";
/// One message in so many is traced.
const TRACE_ONE_IN: u64 = 4;
/// How long a node may take to stop in good order, as in the real process.
const STOP: Duration = Duration::from_secs(8);

/// How a process ended by itself.
#[derive(Debug)]
pub enum End {
    /// It was told to stop.
    Stopped,
    /// It could not go on; its last words.
    Failed(String),
}

/// What the gateway is told, with windows so small that whatever can wait does, if `tiny`. `admit_per_s`: as shipped
/// if 0.
pub fn gateway_config(
    listen: String,
    ping_ms: u64,
    tiny: bool,
    admit_per_s: u32,
    spans: Arc<dyn SpanSink>,
) -> GatewayConfig {
    let auth = AuthConfig { secret: Some(Masked::new(TOKEN_SECRET)), ..AuthConfig::default() };
    let traces = TraceConfig { one_in: TRACE_ONE_IN, spans_per_s: u32::MAX, sink: Some(spans) };
    let admin_token = Some(Masked::new(ADMIN_TOKEN));
    let mut config = GatewayConfig { listen, auth, admin_token, traces, ..GatewayConfig::default() };
    config.limits.ping_ms = ping_ms;
    if admit_per_s > 0 {
        config.admission.per_s = admit_per_s;
    }
    if tiny {
        (config.limits.window_messages, config.limits.window_bytes) = (3, 1 << 10);
    }
    config
}

/// Runs a node until it is told to `stop`, or cannot go on.
pub async fn run(
    env: Env,
    config: ClusterConfig,
    gateway: GatewayConfig,
    started: impl FnOnce(&Cluster),
    stop: impl Future<Output = ()>,
) -> End {
    let metrics = Arc::new(Metrics::new());
    let env = metrics.watch_disk(env);
    let cluster = match Cluster::start(env.clone(), config, metrics.clone()).await {
        Ok(cluster) => cluster,
        Err(error) => return End::Failed(error.to_string()),
    };
    started(&cluster);
    let gateway = match Gateway::start(env, cluster.clone(), gateway, metrics).await {
        Ok(gateway) => gateway,
        Err(error) => return End::Failed(error.to_string()),
    };
    let end = tokio::select! {
        biased;
        why = cluster.failed() => End::Failed(why),
        () = stop => {
            gateway.stop().await;
            End::Stopped
        }
    };
    // As in the real process: a node that fails also tries to hand over.
    let _ = clock::timeout(STOP, cluster.stop()).await;
    end
}
