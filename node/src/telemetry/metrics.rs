//! What this node counts, in Prometheus' text format.
//!
//! Invariants: one registry for each node, none global, so that simulated nodes do not mix; no
//! user, device or message id in a label; every combination of labels that an alert reads exists
//! at 0 from the start.

use std::sync::Mutex;
use std::time::Duration;

use cluster::id::{GroupId, UserId};
use cluster::observer::{Audience, Delivery, Forgotten, Observer, PEER_REFUSALS};
use cluster::signal::News;
use cluster::status::Status;
use cluster::sync::lock;
use prometheus::core::Collector;
use prometheus::proto::LabelPair;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::connections::Connections;
#[cfg(feature = "real")]
use super::data::Data;
use super::disk::Disk;
use super::export::Telemetry;
use super::gauges::Gauges;
use super::sample::Sampler;
use super::sessions::Sessions;
use super::spans::ids;

/// Values of the label `type`. System messages come with later versions.
const TYPES: [&str; 3] = ["direct", "group", "system"];

fn label(audience: Audience) -> &'static str {
    match audience {
        Audience::Direct => "direct",
        Audience::Group => "group",
    }
}

/// Values of the label `reason` of failed messages.
const FAILURES: [&str; 3] = ["inbox_full", "inbox_limit", "expired"];

/// Upper edges of the delivery latency's buckets, in seconds; 0.2 and 0.5 are the SLO's and the alert's.
const LATENCY_BUCKETS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0];

/// Upper edges of the buckets of the time that a checkpoint takes, in seconds.
const CHECKPOINT_BUCKETS: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0];

/// Deliveries that took longer are logged, one in so many and the traced: when one is slow, thousands are.
const HIGH_LATENCY: Duration = Duration::from_millis(500);
const HIGH_LATENCY_ONE_IN: u64 = 100;

/// One node's metrics.
pub struct Metrics {
    registry: Registry,
    scraping: Mutex<()>,
    pub(super) connections: Connections,
    pub(super) sessions: Sessions,
    pub(super) disk: Disk,
    #[cfg(feature = "real")]
    pub(super) data: Data,
    pub(super) telemetry: Telemetry,
    messages_delivered: IntCounterVec,
    messages_failed: IntCounterVec,
    delivery_latency: HistogramVec,
    late_deliveries: IntCounter,
    duplicates: IntCounter,
    elections: IntCounter,
    presence_updates: IntCounter,
    peer_refusals: IntCounterVec,
    certificate_ends: IntGaugeVec,
    checkpoints: Histogram,
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

    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
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

    pub fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
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
            scraping: Mutex::default(),
            connections: Connections::new(&make),
            sessions: Sessions::new(&make),
            disk: Disk::new(&make),
            #[cfg(feature = "real")]
            data: Data::new(&make),
            telemetry: Telemetry::new(&make),
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
            late_deliveries: make.counter(
                "im_gateway_late_deliveries_total",
                "Messages of clients of this node that waited for an absent device, and are in no latency",
            ),
            duplicates: make.counter(
                "im_gateway_message_duplication_total",
                "Repeated sends that were recognised, and stored no second time",
            ),
            elections: make.counter(
                "im_gateway_raft_elections_total",
                "Elections that this node has seen begin: growth of the term",
            ),
            presence_updates: make.counter(
                "im_gateway_presence_updates_total",
                "Times that a client was told who is there, before what a slow one did not take was replaced",
            ),
            peer_refusals: make.counters(
                "im_gateway_peer_refusals_total",
                "Connections to the port for nodes that came to nothing, by the kind of reason",
                &["kind"],
            ),
            certificate_ends: make.gauges(
                "im_gateway_certificate_expiry_timestamp_seconds",
                "When the certificate in force ends, in seconds since the Unix epoch",
                &["port"],
            ),
            checkpoints: make.histogram(
                "im_gateway_checkpoint_seconds",
                "Writing a checkpoint of the state, beside everything else",
                CHECKPOINT_BUCKETS.to_vec(),
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
        for kind in PEER_REFUSALS {
            self.peer_refusals.with_label_values(&[kind]);
        }
        for kind in TYPES {
            self.messages_delivered.with_label_values(&[kind]);
            self.delivery_latency.with_label_values(&[kind]);
            for reason in FAILURES {
                self.messages_failed.with_label_values(&[kind, reason]);
            }
        }
    }

    /// The certificate that is in force on a port, `clients` or `nodes`, ends at this time.
    pub fn certificate_ends(&self, port: &str, ends_s: u64) {
        self.certificate_ends.with_label_values(&[port]).set(i64::try_from(ends_s).unwrap_or(i64::MAX));
    }

    /// Everything in Prometheus' text format, with the label `node`, and the cluster as `status` shows it.
    #[must_use]
    pub fn scrape(&self, status: &Status) -> String {
        // Gauges are set from the status one after the other: two who ask at once would see each other's half.
        let _turn = lock(&self.scraping);
        self.gauges.show(status, self.active_connections());
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

/// As log lines have it.
pub fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Observer for Metrics {
    fn delivered(&self, audience: Audience, count: u64) {
        self.messages_delivered.with_label_values(&[label(audience)]).inc_by(count);
    }

    fn failed(&self, audience: Audience, reason: &'static str, count: u64, recipient: Option<&UserId>) {
        self.messages_failed.with_label_values(&[label(audience), reason]).inc_by(count);
        // A refused send is logged by its session, which knows whose it was.
        if reason != "inbox_full" {
            let user_id = recipient.map(UserId::as_str);
            tracing::error!(
                event = "message_delivery_failed",
                error = reason,
                count,
                user_id,
                "messages not delivered"
            );
        }
    }

    fn delivered_late(&self, count: u64) {
        self.late_deliveries.inc_by(count);
    }

    fn presence(&self, count: u64) {
        self.presence_updates.inc_by(count);
    }

    fn elections(&self, count: u64) {
        self.elections.inc_by(count);
    }

    fn peer_refused(&self, kind: &'static str) {
        self.peer_refusals.with_label_values(&[kind]).inc();
    }

    fn checkpoint(&self, took: Duration) {
        self.checkpoints.observe(took.as_secs_f64());
    }

    fn duplicate(&self, count: u64) {
        self.duplicates.inc_by(count);
    }

    fn delivery_latency(&self, delivery: &Delivery<'_>, latency: Duration) {
        let &Delivery { mid, by, group, trace } = delivery;
        self.delivery_latency.with_label_values(&[label(delivery.audience())]).observe(latency.as_secs_f64());
        if latency > HIGH_LATENCY && (trace.is_some() || self.high_latency.hit()) {
            let (trace_id, span_id) = ids(trace);
            tracing::warn!(
                event = "high_latency",
                trace_id,
                span_id,
                user_id = by.as_str(),
                group_id = group.map(GroupId::as_str),
                msg_id = %mid,
                latency_ms = whole_ms(latency),
                "a delivery took long"
            );
        }
    }

    fn forgotten(&self, why: Forgotten) {
        self.device_forgotten(why);
    }

    fn signal_dropped(&self, news: News) {
        self.signal(news, false);
    }

    fn proposal(&self, ops: usize, latency: Duration) {
        self.proposal_ops.observe(ops as f64);
        self.proposal_latency.observe(latency.as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
