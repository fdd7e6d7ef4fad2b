//! Spans and log lines to a collector: OTLP over HTTP, protobuf.
//!
//! Invariants: nothing here blocks whoever hands something over, nor fails the node. What waits is bounded;
//! what finds no room, or is not taken, is dropped and counted. Nothing that an export causes is exported.

mod client;
mod logs;
mod spans;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{LogExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{self as sdk_logs, BatchLogProcessor, LogBatch, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::trace::{self as sdk_trace, BatchSpanProcessor, SpanData, SpanProcessor};
use tokio::runtime::Handle;

use self::client::Client;
use super::logs::SERVICE;
use super::{Metrics, Span, SpanSink};

/// Spans, and as many log records, that may wait for the collector.
const QUEUE: usize = 4_096;
/// Most of them in one request.
const BATCH: usize = 512;
/// How long a batch may wait to be filled.
const FILL: Duration = Duration::from_secs(1);
/// How long a batch is tried, repeats included.
const EXPORT_WITHIN: Duration = Duration::from_secs(10);

/// Where telemetry goes.
#[derive(Debug, Clone)]
pub struct OtlpConfig {
    /// The collector's base URL, such as `http://otel-collector:4318`.
    pub endpoint: String,
    /// Whether log lines are exported too.
    pub logs: bool,
}

/// Telemetry cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("cannot export telemetry to {endpoint}: {why}")]
pub struct OtlpError {
    endpoint: String,
    why: String,
}

/// A node's way to its collector.
#[derive(Debug)]
pub struct Otlp {
    scope: InstrumentationScope,
    spans: BatchSpanProcessor,
    span_gate: Arc<Gate>,
    logs: Option<Logs>,
}

#[derive(Debug)]
struct Logs {
    provider: SdkLoggerProvider,
    logger: SdkLogger,
    gate: Arc<Gate>,
}

impl Otlp {
    /// Exports what `node` hands over. Requests are made on `runtime`.
    ///
    /// # Errors
    /// An endpoint that is no URL. One that nobody answers at is none.
    pub fn start(config: &OtlpConfig, node: &str, metrics: &Arc<Metrics>, runtime: Handle) -> Result<Self, OtlpError> {
        let failed = |why: String| OtlpError { endpoint: config.endpoint.clone(), why };
        let base = config.endpoint.trim_end_matches('/');
        let client = Arc::new(Client::new(base, runtime).map_err(failed)?);
        let resource = resource(node);

        let gate = Arc::new(Gate::new("traces", metrics.clone()));
        let exporter = SpanExporter::builder().with_http().with_shared_http_client(client.clone());
        let exporter = exporter.with_endpoint(format!("{base}/v1/traces")).with_protocol(Protocol::HttpBinary);
        let exporter = exporter.with_timeout(EXPORT_WITHIN).build().map_err(|error| failed(error.to_string()))?;
        let batches = sdk_trace::BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(FILL)
            .build();
        let exporter = Counted { exporter, gate: gate.clone() };
        let mut spans = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        spans.set_resource(&resource);

        let logs = config.logs.then(|| Logs::start(base, client, resource, metrics)).transpose().map_err(failed)?;
        let scope = InstrumentationScope::builder("im-gateway").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { scope, spans, span_gate: gate, logs })
    }

    /// Exports what waits, within this time. Blocks.
    pub fn stop(&self, within: Duration) {
        // What a collector that does not answer would have been told is lost, which is counted by nobody any more.
        let _ = self.spans.shutdown_with_timeout(within);
        if let Some(logs) = &self.logs {
            let _ = logs.provider.shutdown_with_timeout(within);
        }
    }
}

impl Logs {
    fn start(base: &str, client: Arc<Client>, resource: Resource, metrics: &Arc<Metrics>) -> Result<Self, String> {
        let gate = Arc::new(Gate::new("logs", metrics.clone()));
        let exporter = LogExporter::builder().with_http().with_shared_http_client(client);
        let exporter = exporter.with_endpoint(format!("{base}/v1/logs")).with_protocol(Protocol::HttpBinary);
        let exporter = exporter.with_timeout(EXPORT_WITHIN).build().map_err(|error| error.to_string())?;
        let batches = sdk_logs::BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(FILL)
            .build();
        let exporter = Counted { exporter, gate: gate.clone() };
        let batches = BatchLogProcessor::builder(exporter).with_batch_config(batches).build();
        let provider = SdkLoggerProvider::builder().with_resource(resource).with_log_processor(batches).build();
        let logger = opentelemetry::logs::LoggerProvider::logger(&provider, "im-gateway");
        Ok(Self { provider, logger, gate })
    }
}

impl SpanSink for Otlp {
    fn take(&self, span: Span) {
        if self.span_gate.enter() {
            self.spans.on_end(spans::data(span, &self.scope));
        }
    }
}

/// Who speaks. Without what the environment says: a node's settings are in its configuration.
fn resource(node: &str) -> Resource {
    let of_node = [
        KeyValue::new("service.name", SERVICE),
        KeyValue::new("service.instance.id", node.to_owned()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    Resource::builder_empty().with_attributes(of_node).build()
}

/// Lets in as much as may wait, and counts what becomes of it.
struct Gate {
    signal: &'static str,
    metrics: Arc<Metrics>,
    waiting: AtomicUsize,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("signal", &self.signal).field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Gate {
    fn new(signal: &'static str, metrics: Arc<Metrics>) -> Self {
        Self { signal, metrics, waiting: AtomicUsize::new(0) }
    }

    /// Whether there is room for one more.
    fn enter(&self) -> bool {
        let one_more = |waiting| (waiting < QUEUE).then_some(waiting + 1);
        let entered = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        if !entered {
            self.metrics.telemetry.dropped(self.signal, "queue", 1);
        }
        entered
    }

    /// So many were tried.
    fn left(&self, count: usize, result: &OTelSdkResult) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        match result {
            Ok(()) => self.metrics.telemetry.exported(self.signal, count),
            Err(_) => self.metrics.telemetry.dropped(self.signal, "export", count),
        }
    }
}

/// An exporter behind a gate.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    gate: Arc<Gate>,
}

impl sdk_trace::SpanExporter for Counted<SpanExporter> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let result = self.exporter.export(batch).await;
        self.gate.left(count, &result);
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl sdk_logs::LogExporter for Counted<LogExporter> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let count = batch.iter().count();
        let result = self.exporter.export(batch).await;
        self.gate.left(count, &result);
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_what_is_dropped_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let gate = Gate::new("logs", metrics.clone());
        let counted = |name: &str, labels: &str, count: usize| {
            let line = format!("im_gateway_otlp_{name}_total{{node=\"n\",{labels}signal=\"logs\"}} {count}\n");
            assert!(metrics.render("n").contains(&line), "{line}");
        };
        assert!((0..QUEUE).all(|_| gate.enter()));
        assert!(!gate.enter() && !gate.enter());
        counted("dropped", "reason=\"queue\",", 2);
        gate.left(3, &Ok(()));
        gate.left(2, &Err(opentelemetry_sdk::error::OTelSdkError::AlreadyShutdown));
        counted("exported", "", 3);
        counted("dropped", "reason=\"export\",", 2);
        assert!((0..5).all(|_| gate.enter()) && !gate.enter());
    }
}
