//! Spans as OpenTelemetry has them, named by its
//! [conventions for messaging](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/) where they say something.

use std::time::{Duration, SystemTime};

use cluster::id::Pos;
use cluster::state::Destination;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::telemetry::{Span, Step};

/// `messaging.system` of all spans.
const SYSTEM: &str = "im-gateway";

/// A span for export.
pub fn data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let (trace, id) = (TraceId::from_bytes(span.context.trace.0), span_id(span.context.span));
    let time = |ns| SystemTime::UNIX_EPOCH + Duration::from_nanos(ns);
    let mut attributes = vec![
        KeyValue::new("messaging.system", SYSTEM),
        KeyValue::new("messaging.operation.name", span.step.name()),
        KeyValue::new("messaging.message.id", span.mid.to_string()),
    ];
    if let Some((user, device)) = &span.device {
        attributes.push(KeyValue::new("user.id", user.as_str().to_owned()));
        attributes.push(KeyValue::new("messaging.client.id", device.as_str().to_owned()));
    }
    let status = describe(&span.step, &mut attributes);
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: span.parent.map_or(SpanId::INVALID, span_id),
        // What a client, or the log, has brought.
        parent_span_is_remote: span.parent.is_some() && matches!(span.step, Step::Send { .. } | Step::Deliver { .. }),
        span_kind: match span.step {
            Step::Send { .. } => SpanKind::Server,
            Step::Store | Step::Deliver { .. } => SpanKind::Internal,
            Step::Ack { .. } => SpanKind::Client,
        },
        name: span.step.name().into(),
        start_time: time(span.start_ns),
        end_time: time(span.end_ns),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status,
        instrumentation_scope: scope.clone(),
    }
}

fn span_id(id: cluster::trace::SpanId) -> SpanId {
    SpanId::from(id.0.get())
}

/// Adds what is particular to a step.
fn describe(step: &Step, attributes: &mut Vec<KeyValue>) -> Status {
    let place = |seq: &Pos| KeyValue::new("im_gateway.seq", i64::try_from(seq.0).unwrap_or(i64::MAX));
    match step {
        Step::Send { to, bytes, refused } => {
            let (name, group) = match to {
                Destination::User(user) => (user.as_str(), false),
                Destination::Group(group) => (group.as_str(), true),
            };
            attributes.push(KeyValue::new("messaging.operation.type", "send"));
            attributes.push(KeyValue::new("messaging.destination.name", name.to_owned()));
            attributes.push(KeyValue::new("im_gateway.group", group));
            attributes.push(KeyValue::new("messaging.message.body.size", i64::try_from(*bytes).unwrap_or(i64::MAX)));
            if let Some(code) = refused {
                let code = serde_json::to_value(code).ok().and_then(|code| code.as_str().map(str::to_owned));
                let code = code.unwrap_or_default();
                attributes.push(KeyValue::new("error.type", code.clone()));
                return Status::error(code);
            }
        }
        Step::Store => {}
        Step::Deliver { seq, waited } => {
            attributes.push(place(seq));
            attributes.push(KeyValue::new("im_gateway.waited", *waited));
        }
        Step::Ack { seq } => {
            attributes.push(KeyValue::new("messaging.operation.type", "settle"));
            attributes.push(place(seq));
        }
    }
    Status::Unset
}
