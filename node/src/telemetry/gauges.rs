//! What is only looked at when somebody asks: the cluster, as its status shows it, and the process.

use cluster::status::Status;
use prometheus::{Gauge, IntGauge, IntGaugeVec};

use super::metrics::Maker;

/// Raft's roles, as [`Status::role`] names them.
const ROLES: [&str; 5] = ["leader", "follower", "candidate", "learner", "shutdown"];
/// States of a link to another node, as [`Status::nodes`] names them.
const LINKS: [&str; 4] = ["connected", "connecting", "down", "refused"];
/// Why a node may not be ready.
const NOT_READY: [&str; 4] = ["starting", "no_quorum", "draining", "failed"];

/// Values of the label `kind` of log positions, and of the labels `of`.
const INDEXES: [&str; 4] = ["last", "committed", "applied", "checkpoint"];
const SESSIONS: [&str; 2] = ["node", "cluster"];
const INBOX: [&str; 3] = ["messages", "bytes", "memory_bytes"];
const STATE: [&str; 6] = ["users", "devices", "retired_devices", "groups", "memberships", "revocations"];

/// Metrics whose values are set at each scrape.
pub(super) struct Gauges {
    offline_queue: IntGauge,
    breaker: IntGauge,
    ready: IntGauge,
    not_ready: IntGaugeVec,
    to_move: IntGauge,
    raft_term: IntGauge,
    raft_role: IntGaugeVec,
    raft_has_leader: IntGauge,
    raft_index: IntGaugeVec,
    raft_quorum_age: Gauge,
    presence_staleness: Gauge,
    presence_watches: IntGauge,
    links: IntGaugeVec,
    nodes: IntGaugeVec,
    sessions: IntGaugeVec,
    inbox: IntGaugeVec,
    state: IntGaugeVec,
    process: Process,
}

impl Gauges {
    pub fn new(make: &Maker<'_>) -> Self {
        // Dashboards of gateways with a cache and an offline worker read these; a node that holds a replica has neither.
        for (name, help) in [
            ("im_gateway_cache_hits_total", "Route cache hits of edge gateways; 0 on a node that holds a replica"),
            ("im_gateway_cache_misses_total", "Route cache misses of edge gateways; 0 on a node that holds a replica"),
        ] {
            make.counter(name, help);
        }
        make.gauge("im_gateway_cache_size", "Routes cached by an edge gateway; 0 on a node that holds a replica");
        make.gauge("im_service_offline_worker_lag", "Messages that the offline worker has not taken yet");
        let build = make.gauges("im_gateway_build_info", "1; the build is in the labels", &["version", "revision"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), option_env!("IM_GATEWAY_REVISION").unwrap_or("")]).set(1);
        let gauges = Self {
            offline_queue: make.gauge("im_service_offline_queue_size", "Messages that wait in inboxes"),
            breaker: make
                .gauge("im_gateway_breaker_open", "1 while the breaker is open: messages are stored, not delivered"),
            ready: make.gauge("im_gateway_ready", "1 while the node takes new clients"),
            not_ready: make.gauges("im_gateway_not_ready", "1 for each reason why it takes none", &["reason"]),
            to_move: make.gauge(
                "im_gateway_draining_connections",
                "Clients that a draining node has still to move; 0 on others",
            ),
            raft_term: make.gauge("im_gateway_raft_term", "Raft's term"),
            raft_role: make.gauges("im_gateway_raft_role", "1 for the node's role in Raft", &["role"]),
            raft_has_leader: make.gauge("im_gateway_raft_has_leader", "1 while the node knows a leader"),
            raft_index: make.gauges(
                "im_gateway_raft_index",
                "Log positions: last in the log, committed, applied, of the last checkpoint",
                &["kind"],
            ),
            raft_quorum_age: make.real_gauge(
                "im_gateway_raft_quorum_age_seconds",
                "Since a quorum acknowledged this leader; 0 on others",
            ),
            presence_staleness: make.real_gauge(
                "im_gateway_presence_staleness_seconds",
                "How old what this node knows of who is connected may be: since the last word of a quorum",
            ),
            presence_watches: make
                .gauge("im_gateway_presence_watches", "Pairs of a session of this node and a user whom it watches"),
            links: make.gauges("im_gateway_peer_links", "Links to the other members, by state", &["state"]),
            nodes: make.gauges("im_gateway_cluster_nodes", "Members, by role and whether they are up", &["role", "up"]),
            sessions: make.gauges("im_gateway_sessions", "Registered sessions: on this node, in the cluster", &["of"]),
            inbox: make.gauges("im_gateway_inbox", "What waits in inboxes: messages, bytes, bytes in memory", &["of"]),
            state: make.gauges("im_gateway_state", "Sizes of the replicated state", &["of"]),
            process: Process::new(make),
        };
        gauges.begin_at_zero();
        gauges
    }

    fn begin_at_zero(&self) {
        set_each(&self.not_ready, NOT_READY.map(|reason| (reason, 0)));
        set_each(&self.raft_role, ROLES.map(|role| (role, 0)));
        set_each(&self.links, LINKS.map(|state| (state, 0)));
        set_each(&self.raft_index, INDEXES.map(|kind| (kind, 0)));
        set_each(&self.sessions, SESSIONS.map(|of| (of, 0)));
        set_each(&self.inbox, INBOX.map(|of| (of, 0)));
        set_each(&self.state, STATE.map(|of| (of, 0)));
        for (role, up) in [("voter", "true"), ("voter", "false"), ("learner", "true"), ("learner", "false")] {
            self.nodes.with_label_values(&[role, up]).set(0);
        }
    }

    /// Shows a status, of a node with so many connections.
    pub fn show(&self, status: &Status, connections: i64) {
        self.begin_at_zero();
        self.ready.set(i64::from(status.not_ready.is_empty()));
        for reason in &status.not_ready {
            self.not_ready.with_label_values(&[reason]).set(1);
        }
        self.to_move.set(if status.not_ready.contains(&"draining") { connections } else { 0 });
        self.breaker.set(i64::from(status.breaker == "open"));
        self.raft_term.set(as_i64(status.term));
        if ROLES.contains(&status.role.as_str()) {
            self.raft_role.with_label_values(&[status.role.as_str()]).set(1);
        }
        self.raft_has_leader.set(i64::from(status.leader.is_some()));
        self.raft_quorum_age.set(status.quorum_age_ms.unwrap_or(0) as f64 / 1000.0);
        self.presence_staleness.set(status.quorum_silence_ms as f64 / 1000.0);
        self.presence_watches.set(as_i64(status.watches as u64));
        let indexes = [status.last_log_index, status.committed_index, status.applied_index, status.checkpoint_index];
        set_all(&self.raft_index, INDEXES, indexes);
        for node in &status.nodes {
            self.nodes.with_label_values(&[node.role, if node.up { "true" } else { "false" }]).inc();
            if LINKS.contains(&node.link) {
                self.links.with_label_values(&[node.link]).inc();
            }
        }
        let totals = &status.totals;
        self.offline_queue.set(as_i64(totals.inbox_messages));
        set_all(&self.sessions, SESSIONS, [status.local_sessions as u64, totals.sessions]);
        set_all(&self.inbox, INBOX, [totals.inbox_messages, totals.inbox_bytes, totals.memory_bytes]);
        let (devices, retired) = (totals.devices, totals.retired_devices);
        let sizes = [totals.users, devices, retired, totals.groups, totals.memberships, totals.revocations];
        set_all(&self.state, STATE, sizes);
    }

    /// Shows the process as it is now.
    pub fn show_process(&self) {
        self.process.show();
    }
}

fn set_each<const N: usize>(gauges: &IntGaugeVec, values: [(&str, i64); N]) {
    for (label, value) in values {
        gauges.with_label_values(&[label]).set(value);
    }
}

fn set_all<const N: usize>(gauges: &IntGaugeVec, labels: [&str; N], values: [u64; N]) {
    for (label, value) in labels.into_iter().zip(values) {
        gauges.with_label_values(&[label]).set(as_i64(value));
    }
}

fn as_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(feature = "real")]
use super::process::Process;

/// A simulated node is no process of its own.
#[cfg(not(feature = "real"))]
struct Process;

#[cfg(not(feature = "real"))]
impl Process {
    fn new(_make: &Maker<'_>) -> Self {
        Self
    }
    fn show(&self) {}
}
