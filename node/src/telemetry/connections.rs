//! What this node counts of its clients' connections.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::metrics::{Maker, Metrics};
use crate::http::Refusal;
use crate::protocol::CloseCode;

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
    /// The client does not speak TLS as this port does.
    Tls,
}

impl ConnectionError {
    const ALL: [Self; 10] = [
        Self::Auth,
        Self::HelloTimeout,
        Self::Protocol,
        Self::Io,
        Self::PingTimeout,
        Self::Slow,
        Self::Unavailable,
        Self::Overload,
        Self::Accept,
        Self::Tls,
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
            Self::Tls => "tls_failed",
        }
    }
}

/// The `reason` of a connection that ended without a close frame.
pub const CONNECTION_LOST: &str = "connection_lost";

/// Upper edges of the buckets of how long connections last, in seconds.
const DURATION_BUCKETS: [f64; 9] = [1.0, 5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 28_800.0, 86_400.0];

/// Metrics of connections.
pub(super) struct Connections {
    active: IntGauge,
    established: IntCounter,
    closed: IntCounterVec,
    errors: IntCounterVec,
    refused: IntCounterVec,
    duration: Histogram,
    ack_timeouts: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    send_queue: IntGauge,
    writer_queue: IntGauge,
}

impl Connections {
    pub fn new(make: &Maker<'_>) -> Self {
        let connections = Self {
            active: make.gauge("im_gateway_active_connections", "Open WebSocket connections"),
            established: make.counter("im_gateway_connections_established_total", "WebSocket connections opened"),
            closed: make.counters(
                "im_gateway_connections_closed_total",
                "WebSocket connections closed, by reason",
                &["reason"],
            ),
            errors: make.counters(
                "im_gateway_connection_errors_total",
                "Connections refused or ended by an error, by its kind",
                &["error_type"],
            ),
            refused: make.counters(
                "im_gateway_connections_refused_total",
                "WebSockets that were told to come again later, by the limit that was met",
                &["limit"],
            ),
            duration: make.histogram(
                "im_gateway_connection_duration_seconds",
                "How long WebSocket connections lasted that were closed",
                DURATION_BUCKETS.to_vec(),
            ),
            ack_timeouts: make
                .counter("im_gateway_ack_timeout_total", "Messages not acknowledged within the ack timeout"),
            received: make.counter("im_gateway_network_receive_bytes_total", "Bytes read from clients' WebSockets"),
            sent: make.counter("im_gateway_network_transmit_bytes_total", "Bytes written to clients' WebSockets"),
            send_queue: make
                .gauge("im_gateway_send_queue", "Messages taken from clients of this node that have no answer yet"),
            writer_queue: make.gauge(
                "im_gateway_writer_queue",
                "Bytes that wait to be written to clients of this node, because they do not take them",
            ),
        };
        for code in CloseCode::ALL {
            connections.closed.with_label_values(&[code.reason()]);
        }
        connections.closed.with_label_values(&[CONNECTION_LOST]);
        for refusal in Refusal::ALL {
            connections.refused.with_label_values(&[refusal.label()]);
        }
        for error in ConnectionError::ALL {
            connections.errors.with_label_values(&[error.label()]);
        }
        connections
    }
}

impl Metrics {
    /// A WebSocket was opened.
    pub fn connection_opened(&self) {
        self.connections.established.inc();
        self.connections.active.inc();
    }

    /// A WebSocket was closed after so long, for one of the reasons of [`CloseCode::reason`] or
    /// [`CONNECTION_LOST`].
    pub fn connection_closed(&self, reason: &'static str, lasted: Duration) {
        self.connections.closed.with_label_values(&[reason]).inc();
        self.connections.duration.observe(lasted.as_secs_f64());
        self.connections.active.dec();
    }

    /// A connection was refused or ended by an error.
    pub fn connection_error(&self, error: ConnectionError) {
        self.connections.errors.with_label_values(&[error.label()]).inc();
    }

    /// A WebSocket was told to come again later.
    pub fn connection_refused(&self, why: Refusal) {
        self.connections.refused.with_label_values(&[why.label()]).inc();
    }

    /// Messages have waited for an acknowledgement for too long.
    pub fn ack_timeouts(&self, count: u64) {
        self.connections.ack_timeouts.inc_by(count);
    }

    /// Open WebSockets.
    #[must_use]
    pub fn active_connections(&self) -> i64 {
        self.connections.active.get()
    }

    /// Bytes came from a client.
    pub fn received(&self, bytes: usize) {
        self.connections.received.inc_by(bytes as u64);
    }

    /// Bytes went to a client.
    pub fn sent(&self, bytes: usize) {
        self.connections.sent.inc_by(bytes as u64);
    }
}

/// One connection's part of a gauge over all of them. Gives it back when it is dropped.
pub struct Part {
    metrics: Arc<Metrics>,
    of: fn(&Connections) -> &IntGauge,
    value: usize,
}

impl Part {
    /// Of the messages without an answer.
    #[must_use]
    pub fn of_send_queue(metrics: Arc<Metrics>) -> Self {
        Self { metrics, of: |connections| &connections.send_queue, value: 0 }
    }

    /// Of the bytes that wait to be written.
    #[must_use]
    pub fn of_writer_queue(metrics: Arc<Metrics>) -> Self {
        Self { metrics, of: |connections| &connections.writer_queue, value: 0 }
    }

    /// This connection's part is `value` now.
    pub fn set(&mut self, value: usize) {
        if value != self.value {
            (self.of)(&self.metrics.connections).add(value as i64 - self.value as i64);
            self.value = value;
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}
