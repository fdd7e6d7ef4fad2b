//! What one node's process runs: the production cluster and gateway.

use std::sync::Arc;

use cluster::env::Env;
use cluster::{Cluster, ClusterConfig};
use im_gateway::auth::{AuthConfig, Masked};
use im_gateway::gateway::{Gateway, GatewayConfig};
use im_gateway::telemetry::Metrics;

/// What clients' tokens are signed with.
pub const TOKEN_SECRET: &str = "the simulated clients' secret";

/// Runs a node, with clients at `listen`, until it cannot go on; says why.
pub async fn run(env: Env, config: ClusterConfig, listen: &str, started: impl FnOnce(&Cluster)) -> String {
    let metrics = Arc::new(Metrics::new());
    let cluster = match Cluster::start(env.clone(), config, metrics.clone()).await {
        Ok(cluster) => cluster,
        Err(error) => return error.to_string(),
    };
    started(&cluster);
    let auth = AuthConfig { secret: Some(Masked::new(TOKEN_SECRET)), ..AuthConfig::default() };
    let config = GatewayConfig { listen: listen.to_owned(), auth, ..GatewayConfig::default() };
    match Gateway::start(env, cluster.clone(), config, metrics).await {
        // It serves for as long as this process lives.
        Ok(_gateway) => cluster.failed().await,
        Err(error) => error.to_string(),
    }
}
