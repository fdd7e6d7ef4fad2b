//! What an operator can set, and where it comes from.
//!
//! Invariant: a configuration that was accepted is one that the node can run with. A key that does
//! not exist, a value that makes no sense and a development secret outside the loopback are refused
//! before anything is opened, with the key's name and how to mend it.

mod check;
mod load;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use cluster::ClusterConfig;
use cluster::config::LogKeeping;
use cluster::peer::Secret;
use cluster::state::{FEATURE_LEVEL, GroupLimits, Limits as Replicated};
use im_gateway::auth::{AuthConfig, DEV_SECRET, Masked};
use im_gateway::env::TlsFiles;
use im_gateway::gateway::GatewayConfig;
use im_gateway::http::AdmissionLimits;
use im_gateway::session::Limits;
use im_gateway::telemetry::{OtlpConfig, TraceConfig};
use serde::{Deserialize, Serialize};

pub use check::DEV_CLUSTER_SECRET;
pub use load::{Overrides, Sources, load};

/// A configuration that is refused; says which key and how to mend it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// One node's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Development mode: the demo page at `/`, and `/admin` without a token from the loopback.
    pub dev: bool,
    /// Faults on request at `/test`, for drills; with the admin token, or from the loopback in development mode.
    pub test_hooks: bool,
    /// The folder that holds the node's identity, log and checkpoints.
    pub data: PathBuf,
    pub listen: Listen,
    pub advertise: Advertise,
    pub tls: Tls,
    pub cluster: ClusterSection,
    /// Who may connect.
    pub auth: AuthConfig,
    pub admin: Admin,
    /// Limits of connections.
    pub limits: Limits,
    /// Who may open connections.
    pub admission: AdmissionLimits,
    pub log: Log,
    pub trace: Trace,
    pub otlp: Otlp,
    pub threads: Threads,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dev: false,
            test_hooks: false,
            data: "data/node".into(),
            listen: Listen::default(),
            advertise: Advertise::default(),
            tls: Tls::default(),
            cluster: ClusterSection::default(),
            auth: AuthConfig::default(),
            admin: Admin::default(),
            limits: Limits::default(),
            admission: AdmissionLimits::default(),
            log: Log::default(),
            trace: Trace::default(),
            otlp: Otlp::default(),
            threads: Threads::default(),
        }
    }
}

/// Where the node listens, as `host:port`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Clients: WebSocket, health, metrics.
    pub http: String,
    /// The other nodes of the cluster.
    pub peer: String,
}

impl Default for Listen {
    fn default() -> Self {
        Self { http: "127.0.0.1:8080".into(), peer: "127.0.0.1:9080".into() }
    }
}

/// How others reach this node, where that differs from where it listens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Advertise {
    /// The URL that clients are sent to, such as `ws://chat-1.example.org:8080/ws`.
    pub http: Option<String>,
    /// `host:port` for the other nodes.
    pub peer: Option<String>,
}

/// What is secured; without it, a port speaks in the clear.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The port for clients: `https://`, `wss://`.
    pub http: TlsPort,
    /// The links between nodes: both ends prove that the CA knows them.
    pub peer: TlsPort,
}

/// The PEM files of a port; read again when they change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsPort {
    /// The node's certificate, and those between it and its CA.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// For nodes: the CA whose certificates all of them have.
    pub ca: Option<PathBuf>,
}

impl TlsPort {
    /// The files, where the port is secured.
    #[must_use]
    pub fn files(&self) -> Option<TlsFiles> {
        Some(TlsFiles { cert: self.cert.clone()?, key: self.key.clone()?, ca: self.ca.clone() })
    }
}

/// The cluster this node belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSection {
    /// Found a new cluster when the data folder is empty. Exactly one node of a new cluster does.
    pub bootstrap: bool,
    /// Peer addresses of nodes that are in the cluster already; any one that answers is enough.
    pub join: Vec<String>,
    /// How many nodes vote: 3 or 5. Further nodes are learners.
    pub voters: usize,
    /// Shared by all nodes of the cluster; at least 16 bytes.
    pub secret: Option<Masked>,
    /// Limits that all nodes share; what the founding node says goes.
    pub limits: Replicated,
    /// The same for groups.
    pub groups: GroupLimits,
}

impl Default for ClusterSection {
    fn default() -> Self {
        Self {
            bootstrap: false,
            join: Vec::new(),
            voters: 3,
            secret: None,
            limits: Replicated::default(),
            groups: GroupLimits::default(),
        }
    }
}

/// Who may administer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The token for `/admin` and `/debug`. Without one they serve the loopback in development mode only.
    pub token: Option<Masked>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,cluster=debug`.
    pub level: String,
    /// `json`, `text`, or `auto`: text on a terminal, else JSON lines.
    pub format: LogFormat,
    /// One delivery in so many is logged; 0: none. Failures are always.
    pub delivered_one_in: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Auto, delivered_one_in: 100 }
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Auto,
    Json,
    Text,
}

/// Which messages are traced, beside those whose sender asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trace {
    /// One message in so many, where spans are exported; 0: none.
    pub one_in: u64,
    /// Spans of this node in a second, at most, whoever asks.
    pub spans_per_s: u32,
}

impl Default for Trace {
    fn default() -> Self {
        Self { one_in: 1_000, spans_per_s: 1_000 }
    }
}

/// Where spans are exported to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// A collector's base URL, such as `http://127.0.0.1:4318`.
    pub endpoint: Option<String>,
    /// Log lines too: where nothing collects them from where they are written.
    pub logs: bool,
}

/// Worker threads of the two runtimes; 0 chooses by the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Threads {
    /// For clients' sockets.
    pub gateway: usize,
    /// For Raft and the links between nodes, kept apart so that load causes no elections.
    pub cluster: usize,
}

impl Config {
    /// What the client side of the node is told.
    #[must_use]
    pub fn gateway(&self) -> GatewayConfig {
        GatewayConfig {
            listen: self.listen.http.clone(),
            dev: self.dev,
            test_hooks: self.test_hooks,
            auth: self.auth.clone(),
            admin_token: self.admin.token.clone(),
            limits: self.limits.clone(),
            admission: self.admission.clone(),
            log_one_in: self.log.delivered_one_in,
            traces: self.traces(),
            ..GatewayConfig::default()
        }
    }

    /// What is traced: nothing by the node's own choice where nobody would see it.
    fn traces(&self) -> TraceConfig {
        let one_in = self.otlp.endpoint.as_ref().map_or(0, |_| self.trace.one_in);
        TraceConfig { one_in, spans_per_s: self.trace.spans_per_s, sink: None }
    }

    /// Where spans and log lines are exported to, if they are.
    #[must_use]
    pub fn otlp(&self) -> Option<OtlpConfig> {
        Some(OtlpConfig { endpoint: self.otlp.endpoint.clone()?, logs: self.otlp.logs })
    }

    /// What the cluster's side of the node is told.
    #[must_use]
    pub fn cluster(&self) -> ClusterConfig {
        let secret = self.cluster.secret.as_ref().map_or(DEV_CLUSTER_SECRET, |secret| secret.reveal());
        ClusterConfig {
            peer_listen: self.listen.peer.clone(),
            peer_advertise: self.advertise.peer.clone(),
            client_url: self.advertise.http.clone().unwrap_or_default(),
            join: self.cluster.join.clone(),
            bootstrap: self.cluster.bootstrap,
            secret: Secret::new(secret),
            voters: self.cluster.voters,
            limits: self.cluster.limits.clone(),
            groups: self.cluster.groups.clone(),
            feature_level: FEATURE_LEVEL,
            log: LogKeeping::default(),
        }
    }

    /// The configuration as TOML, secrets masked.
    ///
    /// # Panics
    /// Never: every field has a TOML form.
    #[must_use]
    pub fn print(&self) -> String {
        let public =
            |secret: &Option<Masked>, development| secret.as_ref().is_none_or(|secret| secret.reveal() == development);
        let mut development = Vec::new();
        if self.auth.jwks.is_none() && public(&self.auth.secret, DEV_SECRET) {
            development.push("auth.secret");
        }
        if public(&self.cluster.secret, DEV_CLUSTER_SECRET) {
            development.push("cluster.secret");
        }
        let mut text = String::new();
        if !development.is_empty() {
            text = format!("# public development secret, good on loopback only: {}\n", development.join(", "));
        }
        text + &toml::to_string(self).expect("a configuration is representable in TOML")
    }
}
