//! Log lines as OpenTelemetry has them.

use std::time::{Duration, SystemTime};

use opentelemetry::logs::{LogRecord, Logger, Severity as Number};
use opentelemetry::{SpanId, TraceFlags, TraceId};
use serde_json::Value;

use super::Otlp;
use crate::telemetry::logs::{Line, LineSink, Severity};

impl LineSink for Otlp {
    fn take(&self, line: Line) {
        let Some(logs) = self.logs.as_ref().filter(|logs| logs.gate.enter()) else { return };
        let mut record = logs.logger.create_log_record();
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(line.wall_ms);
        record.set_timestamp(time);
        record.set_observed_timestamp(time);
        record.set_severity_number(number(line.severity));
        record.set_severity_text(line.severity.name());
        record.set_target(line.target);
        let field = |name: &str| line.fields.get(name).and_then(Value::as_str);
        let trace = field("trace_id").and_then(|id| TraceId::from_hex(id).ok());
        let span = field("span_id").and_then(|id| SpanId::from_hex(id).ok());
        if let (Some(trace), Some(span)) = (trace, span) {
            record.set_trace_context(trace, span, Some(TraceFlags::SAMPLED));
        }
        if let Some(event) = field("event") {
            record.add_attribute("event", event.to_owned());
        }
        // The whole line, as the agent sends what it read from the journal: one query finds both.
        record.set_body(line.into_json().into());
        logs.logger.emit(record);
    }
}

fn number(severity: Severity) -> Number {
    match severity {
        Severity::Debug => Number::Debug,
        Severity::Info => Number::Info,
        Severity::Warn => Number::Warn,
        Severity::Error => Number::Error,
        Severity::Fatal => Number::Fatal,
    }
}
