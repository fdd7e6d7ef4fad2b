//! Where log events go: JSON lines for machines, readable text on a terminal; always on stderr.

use std::fmt::{self, Write};
use std::io::IsTerminal;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, fmt};
use tracing_subscriber::registry::LookupSpan;

use super::failure::{Failure, usage};
use crate::config::{Log, LogFormat};

/// The `service` of every line.
const SERVICE: &str = "im-gateway";

/// Begins to log as configured.
///
/// # Errors
/// A level or filter that is none.
pub fn start(log: &Log) -> Result<(), Failure> {
    // The libraries' own reports are for those who ask for them.
    let plain = log.level.parse::<tracing::Level>().is_ok();
    let directives = if plain { format!("{},openraft=warn,sled=warn", log.level) } else { log.level.clone() };
    let filter = EnvFilter::try_new(directives).or_else(|_| {
        usage(format!(
            "`log.level` = \"{}\" is no level or filter; set it to error, warn, info, debug or trace",
            log.level
        ))
    })?;
    let terminal = std::io::stderr().is_terminal();
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber is possible in no command, so the first one is always taken.
    let _ = if json {
        builder.event_format(JsonLines).try_init()
    } else {
        builder.with_ansi(terminal).with_target(false).try_init()
    };
    Ok(())
}

/// One JSON object per line: the common fields first, then the event's own.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        writer.write_str(&line(&timestamp, event))?;
        writer.write_char('\n')
    }
}

fn line(timestamp: &str, event: &Event<'_>) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let Fields(mut fields) = fields;
    let mut take = |name: &str| fields.remove(name).unwrap_or_else(|| Value::from(""));
    let head = [
        ("timestamp", Value::from(timestamp)),
        ("level", Value::from(event.metadata().level().as_str())),
        ("service", Value::from(SERVICE)),
        ("trace_id", take("trace_id")),
        ("span_id", take("span_id")),
        ("message", take("message")),
    ];
    let mut text = String::from("{");
    let own = fields.iter().map(|(name, value)| (name.as_str(), value));
    for (name, value) in head.iter().map(|(name, value)| (*name, value)).chain(own) {
        if text.len() > 1 {
            text.push(',');
        }
        // Writing to memory cannot fail.
        let _ = write!(text, "{}:{value}", Value::from(name));
    }
    text.push('}');
    text
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_the_common_fields_and_its_own() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = fmt().event_format(JsonLines).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(remote = %"1.2.3.4:5", count = 3, trace_id = "t", "a \"quoted\"\nmessage");
        });
        let text = String::from_utf8(sink.0.lock().expect("not poisoned").clone()).expect("UTF-8");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.starts_with("{\"timestamp\":\"20") && text.contains("Z\",\"level\":\"INFO\",\"service\":"),
            "{text}"
        );
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["message"], "a \"quoted\"\nmessage");
        assert_eq!((&json["remote"], &json["count"]), (&"1.2.3.4:5".into(), &3.into()));
        assert_eq!((&json["trace_id"], &json["span_id"]), (&"t".into(), &"".into()));
    }
}
