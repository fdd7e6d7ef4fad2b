//! What became of telemetry on its way to a collector.

use prometheus::IntCounterVec;

use super::metrics::Maker;

/// Values of the label `signal`.
const SIGNALS: [&str; 2] = ["traces", "logs"];
/// Why something was not exported: over the node's limit, no room to wait in, not taken by the collector.
const REASONS: [&str; 3] = ["rate", "queue", "export"];

/// Counts spans and log records.
pub struct Telemetry {
    exported: IntCounterVec,
    dropped: IntCounterVec,
}

impl Telemetry {
    pub(super) fn new(make: &Maker<'_>) -> Self {
        let telemetry = Self {
            exported: make.counters(
                "im_gateway_otlp_exported_total",
                "Spans and log records that a collector has taken",
                &["signal"],
            ),
            dropped: make.counters(
                "im_gateway_otlp_dropped_total",
                "Spans and log records that came to no collector, by the reason",
                &["reason", "signal"],
            ),
        };
        for signal in SIGNALS {
            telemetry.exported.with_label_values(&[signal]);
            for reason in REASONS {
                telemetry.dropped.with_label_values(&[reason, signal]);
            }
        }
        telemetry
    }

    /// A span more than the node may make in a second.
    pub(super) fn dropped_over_rate(&self) {
        self.dropped("traces", "rate", 1);
    }

    #[cfg(feature = "real")]
    pub(super) fn exported(&self, signal: &str, count: usize) {
        self.exported.with_label_values(&[signal]).inc_by(count as u64);
    }

    pub(super) fn dropped(&self, signal: &str, reason: &str, count: usize) {
        self.dropped.with_label_values(&[reason, signal]).inc_by(count as u64);
    }
}
