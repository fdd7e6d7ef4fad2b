//! What this node counts, in Prometheus' text format.
//!
//! Invariants: one registry for each node, none global, so that simulated nodes do not mix; no
//! user, device or message id in a label; every combination of labels that an alert reads exists
//! at 0 from the start.

use std::time::Duration;

use cluster::observer::Observer;
use cluster::status::Status;
use prometheus::core::Collector;
use prometheus::proto::LabelPair;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::gauges::Gauges;
use super::sample::Sampler;
use crate::protocol::CloseCode;

/// Values of the label `type`. Groups and system messages come with later versions.
const TYPES: [&str; 3] = ["direct", "group", "system"];
const DIRECT: &str = "direct";

/// Values of the label `reason` of failed messages.
const FAILURES: [&str; 3] = ["inbox_full", "inbox_limit", "expired"];

/// Upper edges of the delivery latency's buckets, in seconds; 0.2 and 0.5 are the SLO's and the alert's.
const LATENCY_BUCKETS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0];

/// Deliveries that took longer are logged, one in so many: when one is slow, thousands are.
const HIGH_LATENCY: Duration = Duration::from_millis(500);
const HIGH_LATENCY_ONE_IN: u64 = 100;

/// Why a connection did not come about, or ended other than in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionError {
    /// A token that does not count.
    Auth,
    /// No `hello` in time.
    HelloTimeout,
    /// The client broke a protocol.
    Protocol,
    /// The stream failed.
    Io,
    /// The client fell silent.
    PingTimeout,
    /// The client stopped reading.
    Slow,
    /// The node cannot reach the quorum.
    Unavailable,
    /// The node has as many connections as it may.
    Overload,
    /// A connection could not be accepted.
    Accept,
}

impl ConnectionError {
    const ALL: [Self; 9] = [
        Self::Auth,
        Self::HelloTimeout,
        Self::Protocol,
        Self::Io,
        Self::PingTimeout,
        Self::Slow,
        Self::Unavailable,
        Self::Overload,
        Self::Accept,
    ];

    /// The label's value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Auth => "auth_failed",
            Self::HelloTimeout => "hello_timeout",
            Self::Protocol => "protocol_violation",
            Self::Io => "io_error",
            Self::PingTimeout => "ping_timeout",
            Self::Slow => "slow_consumer",
            Self::Unavailable => "unavailable",
            Self::Overload => "overload",
            Self::Accept => "accept_failed",
        }
    }
}

/// The `reason` of a connection that ended without a close frame.
pub const CONNECTION_LOST: &str = "connection_lost";

/// One node's metrics.
pub struct Metrics {
    registry: Registry,
    active_connections: IntGauge,
    connections_established: IntCounter,
    connections_closed: IntCounterVec,
    connection_errors: IntCounterVec,
    messages_delivered: IntCounterVec,
    messages_failed: IntCounterVec,
    delivery_latency: HistogramVec,
    ack_timeouts: IntCounter,
    duplicates: IntCounter,
    proposal_latency: Histogram,
    proposal_ops: Histogram,
    high_latency: Sampler,
    gauges: Gauges,
}

/// Registers collectors under the names that are given.
pub(super) struct Maker<'a>(pub &'a Registry);

impl Maker<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("the names of metrics are constants, and valid");
        self.0.register(Box::new(collector.clone())).expect("each metric is registered once");
        collector
    }

    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    #[cfg(feature = "real")]
    pub fn real_counter(&self, name: &str, help: &str) -> prometheus::Counter {
        self.add(prometheus::Counter::new(name, help))
    }

    pub fn real_gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }

    fn histograms(&self, name: &str, help: &str, buckets: Vec<f64>, labels: &[&str]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at 0.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let make = Maker(&registry);
        let metrics = Self {
            active_connections: make.gauge("im_gateway_active_connections", "Open WebSocket connections"),
            connections_established: make
                .counter("im_gateway_connections_established_total", "WebSocket connections opened"),
            connections_closed: make.counters(
                "im_gateway_connections_closed_total",
                "WebSocket connections closed, by reason",
                &["reason"],
            ),
            connection_errors: make.counters(
                "im_gateway_connection_errors_total",
                "Connections refused or ended by an error, by its kind",
                &["error_type"],
            ),
            messages_delivered: make.counters(
                "im_gateway_messages_delivered_total",
                "Messages acknowledged by a recipient's device for the first time",
                &["type"],
            ),
            messages_failed: make.counters(
                "im_gateway_messages_failed_total",
                "Messages refused for good, expired unseen, or lost to a device by a gap",
                &["type", "reason"],
            ),
            delivery_latency: make.histograms(
                "im_gateway_message_delivery_latency_seconds",
                "From a send's arrival at its node to a recipient device's first acknowledgement",
                LATENCY_BUCKETS.to_vec(),
                &["type"],
            ),
            ack_timeouts: make
                .counter("im_gateway_ack_timeout_total", "Messages not acknowledged within the ack timeout"),
            duplicates: make.counter(
                "im_gateway_message_duplication_total",
                "Repeated sends that were recognised, and stored no second time",
            ),
            proposal_latency: make.histogram(
                "im_gateway_proposal_latency_seconds",
                "From cutting a batch to applying it on this node",
                LATENCY_BUCKETS.to_vec(),
            ),
            proposal_ops: make.histogram(
                "im_gateway_proposal_operations",
                "Operations in a batch",
                vec![1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0],
            ),
            high_latency: Sampler::new(HIGH_LATENCY_ONE_IN),
            gauges: Gauges::new(&make),
            registry,
        };
        metrics.begin_at_zero();
        metrics
    }

    fn begin_at_zero(&self) {
        for code in CloseCode::ALL {
            self.connections_closed.with_label_values(&[code.reason()]);
        }
        self.connections_closed.with_label_values(&[CONNECTION_LOST]);
        for error in ConnectionError::ALL {
            self.connection_errors.with_label_values(&[error.label()]);
        }
        for kind in TYPES {
            self.messages_delivered.with_label_values(&[kind]);
            self.delivery_latency.with_label_values(&[kind]);
            for reason in FAILURES {
                self.messages_failed.with_label_values(&[kind, reason]);
            }
        }
    }

    /// A WebSocket was opened.
    pub fn connection_opened(&self) {
        self.connections_established.inc();
        self.active_connections.inc();
    }

    /// A WebSocket was closed, for one of the reasons of [`CloseCode::reason`] or [`CONNECTION_LOST`].
    pub fn connection_closed(&self, reason: &'static str) {
        self.connections_closed.with_label_values(&[reason]).inc();
        self.active_connections.dec();
    }

    /// A connection was refused or ended by an error.
    pub fn connection_error(&self, error: ConnectionError) {
        self.connection_errors.with_label_values(&[error.label()]).inc();
    }

    /// Messages have waited for an acknowledgement for too long.
    pub fn ack_timeouts(&self, count: u64) {
        self.ack_timeouts.inc_by(count);
    }

    /// Open WebSockets.
    #[must_use]
    pub fn active_connections(&self) -> i64 {
        self.active_connections.get()
    }

    /// Everything in Prometheus' text format, with the label `node`, and the cluster as `status` shows it.
    #[must_use]
    pub fn scrape(&self, status: &Status) -> String {
        self.gauges.show(status);
        self.gauges.show_process();
        self.render(&status.node)
    }

    /// What was counted, in Prometheus' text format, with the label `node`.
    #[must_use]
    pub fn render(&self, node: &str) -> String {
        let mut families = self.registry.gather();
        for family in &mut families {
            // What a process reports of itself carries no `node`, as with any other exporter.
            if family.name().starts_with("process_") {
                continue;
            }
            for metric in family.mut_metric() {
                let mut pair = LabelPair::default();
                pair.set_name("node".into());
                pair.set_value(node.into());
                let mut labels = metric.take_label();
                labels.insert(0, pair);
                metric.set_label(labels);
            }
        }
        TextEncoder::new().encode_to_string(&families).expect("metrics of our own are well-formed")
    }
}

impl Observer for Metrics {
    fn delivered(&self, count: u64) {
        self.messages_delivered.with_label_values(&[DIRECT]).inc_by(count);
    }

    fn failed(&self, reason: &'static str, count: u64) {
        self.messages_failed.with_label_values(&[DIRECT, reason]).inc_by(count);
        // A refused send is logged by its session, which knows whose it was.
        if reason != "inbox_full" {
            tracing::error!(event = "message_delivery_failed", error = reason, count, "messages not delivered");
        }
    }

    fn duplicate(&self, count: u64) {
        self.duplicates.inc_by(count);
    }

    fn delivery_latency(&self, latency: Duration) {
        self.delivery_latency.with_label_values(&[DIRECT]).observe(latency.as_secs_f64());
        if latency > HIGH_LATENCY && self.high_latency.hit() {
            let latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(event = "high_latency", latency_ms, "a delivery took long");
        }
    }

    fn proposal(&self, ops: usize, latency: Duration) {
        self.proposal_ops.observe(ops as f64);
        self.proposal_latency.observe(latency.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_alerts_read_exists_at_zero() {
        let text = Metrics::new().render("n1");
        for line in [
            r#"im_gateway_active_connections{node="n1"} 0"#,
            r#"im_gateway_connections_established_total{node="n1"} 0"#,
            r#"im_gateway_connections_closed_total{node="n1",reason="client_disconnect"} 0"#,
            r#"im_gateway_connection_errors_total{node="n1",error_type="auth_failed"} 0"#,
            r#"im_gateway_messages_delivered_total{node="n1",type="direct"} 0"#,
            r#"im_gateway_messages_delivered_total{node="n1",type="group"} 0"#,
            r#"im_gateway_messages_failed_total{node="n1",reason="expired",type="system"} 0"#,
            r#"im_gateway_message_delivery_latency_seconds_bucket{node="n1",type="direct",le="0.2"} 0"#,
            r#"im_gateway_message_delivery_latency_seconds_bucket{node="n1",type="direct",le="0.5"} 0"#,
            r#"im_gateway_ack_timeout_total{node="n1"} 0"#,
            r#"im_gateway_message_duplication_total{node="n1"} 0"#,
            r#"im_gateway_cache_hits_total{node="n1"} 0"#,
            r#"im_gateway_cache_misses_total{node="n1"} 0"#,
            r#"im_gateway_cache_size{node="n1"} 0"#,
            r#"im_service_offline_queue_size{node="n1"} 0"#,
            r#"im_service_offline_worker_lag{node="n1"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn counts() {
        let metrics = Metrics::new();
        metrics.connection_opened();
        metrics.connection_opened();
        metrics.connection_closed(CONNECTION_LOST);
        metrics.delivered(5);
        metrics.failed("inbox_full", 2);
        metrics.delivery_latency(Duration::from_millis(150));
        let text = metrics.render("n");
        for line in [
            r#"im_gateway_active_connections{node="n"} 1"#,
            r#"im_gateway_connections_closed_total{node="n",reason="connection_lost"} 1"#,
            r#"im_gateway_messages_delivered_total{node="n",type="direct"} 5"#,
            r#"im_gateway_messages_failed_total{node="n",reason="inbox_full",type="direct"} 2"#,
            r#"im_gateway_message_delivery_latency_seconds_bucket{node="n",type="direct",le="0.1"} 0"#,
            r#"im_gateway_message_delivery_latency_seconds_bucket{node="n",type="direct",le="0.2"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
