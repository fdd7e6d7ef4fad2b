//! A node's client side: what listens, and how it ends.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::Cluster;
use cluster::env::{Env, clock, tasks};
use tokio::sync::watch;

use crate::auth::{AuthConfig, AuthConfigError, Masked, Verifier};
use crate::drain::Drain;
use crate::http::{self, Admission, AdmissionLimits, App, HttpLimits};
use crate::session::{Connections, Limits, Node, TestHooks, UserPaces};
use crate::telemetry::{Levels, Metrics, Sampler, Seldom, TraceConfig, Tracer, Trail};

/// How long clients may take to hear that the node ends.
const STOP_WITHIN: Duration = Duration::from_secs(4);
/// Connections that speak HTTP at the same time, at most; the system keeps more of them waiting.
const HTTP_CONNECTIONS: usize = 8192;

/// What the client side of a node is told.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Where clients connect, `host:port`.
    pub listen: String,
    /// Development mode: the demo page, tokens for anybody on this machine, `/admin` from it.
    pub dev: bool,
    /// Faults on request, for drills.
    pub test_hooks: bool,
    /// How clients' tokens are checked.
    pub auth: AuthConfig,
    /// What checks them, where it has been opened already; it must have been if their keys come from a server.
    pub verifier: Option<Arc<Verifier>>,
    /// Opens `/admin`.
    pub admin_token: Option<Masked>,
    /// Limits of connections.
    pub limits: Limits,
    /// Who may open connections.
    pub admission: AdmissionLimits,
    /// Streams of clients that the system lets this process have open, HTTP and WebSocket together.
    pub streams: usize,
    /// One delivery in so many is logged; 0: none. Failures are always.
    pub log_one_in: u64,
    /// Which messages are traced, and where that goes.
    pub traces: TraceConfig,
    /// What is logged, where this process logs: to be changed by `/admin/log-level`.
    pub levels: Option<Arc<Levels>>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            dev: false,
            test_hooks: false,
            auth: AuthConfig::default(),
            verifier: None,
            admin_token: None,
            limits: Limits::default(),
            admission: AdmissionLimits::default(),
            streams: usize::MAX,
            log_one_in: 100,
            traces: TraceConfig::default(),
            levels: None,
        }
    }
}

/// Why the client side could not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Tokens cannot be checked.
    #[error(transparent)]
    Auth(#[from] AuthConfigError),
    /// The client address cannot be listened on.
    #[error("cannot listen for clients on {addr}: {error}; is another node running there?")]
    Listen {
        /// The address.
        addr: String,
        /// Why.
        error: io::Error,
    },
    /// Anybody could sign tokens for it.
    #[error(
        "{addr} is not a loopback address, and the secret of tokens is the published development one: \
         set IMGW_JWT_SECRET, or listen on 127.0.0.1"
    )]
    Exposed {
        /// The address.
        addr: SocketAddr,
    },
    /// Anybody could ask for tokens.
    #[error(
        "{addr} is not a loopback address, and development mode is for one machine: turn it off, or listen on 127.0.0.1"
    )]
    DevelopmentExposed {
        /// The address.
        addr: SocketAddr,
    },
}

/// How the streams that clients may have open are shared out. Each is counted as one of the two from
/// its first moment to its last, so that there are never more than the system allows.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    /// Those that are no WebSocket yet, or that are just told that there is no place for them.
    http: usize,
    websockets: usize,
}

impl Share {
    fn of(streams: usize, connections: usize) -> Self {
        let http = (streams / 8).clamp(1, HTTP_CONNECTIONS);
        Self { http, websockets: connections.min(streams.saturating_sub(http)) }
    }
}

/// A node's client side, running.
pub struct Gateway {
    addr: SocketAddr,
    connections: Arc<Connections>,
    drain: Arc<Drain>,
    stop: watch::Sender<bool>,
}

impl Gateway {
    /// Listens for clients. They are served on the runtime that this is called on.
    ///
    /// # Errors
    /// See [`GatewayError`].
    pub async fn start(
        env: Env,
        cluster: Cluster,
        config: GatewayConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, GatewayError> {
        let verifier = match config.verifier {
            Some(verifier) => verifier,
            None => Arc::new(Verifier::new(&config.auth)?),
        };
        let listen = |error| GatewayError::Listen { addr: config.listen.clone(), error };
        let listener = env.net.listen(&config.listen).await.map_err(listen)?;
        let addr = listener.local_addr();
        if !addr.ip().is_loopback() && verifier.has_development_secret() {
            return Err(GatewayError::Exposed { addr });
        }
        if !addr.ip().is_loopback() && config.dev {
            return Err(GatewayError::DevelopmentExposed { addr });
        }
        let share = Share::of(config.streams, config.limits.connections);
        if share.websockets < config.limits.connections {
            tracing::info!(
                allowed = share.websockets,
                "the limit on open files allows fewer connections than `limits.connections`"
            );
        }
        let connections = Connections::new(share.websockets);
        let drain = Arc::new(Drain::new(cluster.clone(), connections.clone()));
        let (stop, stopped) = watch::channel(false);
        let rules = config.limits.rules();
        // A client that is silent for two heartbeats is given up anyway.
        let limits = HttpLimits { user_timeout: rules.ping * 2, connections: share.http };
        let app = Arc::new(App {
            node: Arc::new(Node {
                name: cluster.node_id().to_string(),
                rules,
                verifier: verifier.clone(),
                metrics: metrics.clone(),
                deliveries: Sampler::new(config.log_one_in),
                tracer: Tracer::new(config.traces, metrics.clone()),
                trail: Trail::default(),
                hooks: config.test_hooks.then(TestHooks::default),
                users: UserPaces::new(config.admission.user_send_per_s),
                unacknowledged: Seldom::default(),
            }),
            cluster,
            connections: connections.clone(),
            admission: Arc::new(Mutex::new(Admission::new(config.admission))),
            drain: drain.clone(),
            overload: Seldom::default(),
            refused: Seldom::default(),
            dev: config.dev,
            admin_token: config.admin_token,
            auth: config.auth,
            levels: config.levels,
        });
        tasks::spawn(http::accept(listener, http::router(app), limits, metrics, stopped.clone()));
        tasks::spawn(verifier.watch(stopped));
        Ok(Self { addr, connections, drain, stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Open WebSockets.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Drains the node, as far as other nodes can take its clients; ends the connections that are
    /// left (1012), their clients told to come back after a random time that grows with their
    /// number; returns when they are gone, or have had their time.
    pub async fn stop(self) {
        self.drain.run().await;
        let _ = self.stop.send(true);
        // Enough for other nodes to take them in: 4000 a second.
        let after_ms = (self.connections.len() as u64 / 4).clamp(100, 30_000);
        self.connections.end(after_ms);
        if clock::timeout(STOP_WITHIN, self.connections.emptied()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "stopped without a word to some clients");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_shared_out_and_never_too_many() {
        let share = |streams, connections| {
            let Share { http, websockets } = Share::of(streams, connections);
            assert!(http > 0 && http.saturating_add(websockets) <= streams.max(http));
            (http, websockets)
        };
        assert_eq!(share(usize::MAX, 200_000), (8192, 200_000), "what the operator set");
        assert_eq!(share(1 << 20, 200_000), (8192, 200_000));
        assert_eq!(share(20_000, 200_000), (2500, 17_500), "what the system allows");
        assert_eq!(share(20_000, 10_000), (2500, 10_000));
        assert_eq!(share(64, 200_000), (8, 56));
    }
}
