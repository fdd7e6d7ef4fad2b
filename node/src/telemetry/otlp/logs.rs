//! Log lines as OpenTelemetry has them.

use std::time::{Duration, SystemTime};

use opentelemetry::logs::{AnyValue, LogRecord, Logger, Severity};
use opentelemetry::{SpanId, TraceFlags, TraceId};
use serde_json::Value;
use tracing::Level;

use super::Otlp;
use crate::telemetry::logs::{Line, LineSink};

impl LineSink for Otlp {
    fn take(&self, line: Line) {
        let Some(logs) = self.logs.as_ref().filter(|logs| logs.gate.enter()) else { return };
        let mut record = logs.logger.create_log_record();
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(line.wall_ms);
        record.set_timestamp(time);
        record.set_observed_timestamp(time);
        let (severity, name) = severity(line.level);
        record.set_severity_number(severity);
        record.set_severity_text(name);
        record.set_target(line.target);
        let mut fields = line.fields;
        let id = |name: &str| fields.get(name).and_then(Value::as_str);
        let trace = id("trace_id").and_then(|id| TraceId::from_hex(id).ok());
        let span = id("span_id").and_then(|id| SpanId::from_hex(id).ok());
        if let (Some(trace), Some(span)) = (trace, span) {
            record.set_trace_context(trace, span, Some(TraceFlags::SAMPLED));
            // They are the record's own; everything else is an attribute.
            fields.remove("trace_id");
            fields.remove("span_id");
        }
        record.set_body(fields.remove("message").map_or_else(|| "".into(), any));
        record.add_attributes(fields.into_iter().map(|(name, value)| (name, any(value))));
        logs.logger.emit(record);
    }
}

fn any(value: Value) -> AnyValue {
    match value {
        Value::Bool(value) => value.into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    }
}

fn severity(level: Level) -> (Severity, &'static str) {
    match level {
        Level::ERROR => (Severity::Error, "ERROR"),
        Level::WARN => (Severity::Warn, "WARN"),
        Level::INFO => (Severity::Info, "INFO"),
        Level::DEBUG => (Severity::Debug, "DEBUG"),
        Level::TRACE => (Severity::Trace, "TRACE"),
    }
}
