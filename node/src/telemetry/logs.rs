//! Log lines: JSON for machines, in the fields that log queries know, and text for people.
//!
//! Invariant: a line is one JSON object whatever a field holds. Tokens and message bodies are kept
//! out by those who log: no type that holds one shows it in its `Debug`.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use cluster::env::clock;
use cluster::sync::lock;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::levels::{Levels, LogError};

/// The field `service` of every line.
pub(super) const SERVICE: &str = "im-gateway-service";

/// Lines that wait to be written, at most: beyond it they are dropped, and counted. Whoever reads them may stop, and
/// nobody here must wait for that.
const WAITING_LINES: usize = 8_192;

/// The thread that writes them; taken to make it write what waits.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();
/// Whether this process logs JSON lines.
static IN_JSON: AtomicBool = AtomicBool::new(false);

/// Lines of this process that were dropped, because nobody took those before them.
#[must_use]
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// Writes what waits, if it is taken within a second, and nothing that is logged later: the process is about to end.
pub fn finish() {
    drop(lock(&WRITER).take());
}

/// Why this process ends, as its last line: at level `FATAL` if its lines are JSON, else for people.
pub fn last_word(why: &str) {
    let line =
        if IN_JSON.load(Ordering::Relaxed) { Line::fatal(why).into_json() } else { format!("im-gateway: {why}") };
    // Nothing is left to do when stderr itself is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Where the exporter's own lines come from.
const EXPORTER: &str = "im_gateway::telemetry::otlp";

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, else JSON lines.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Writes this process' log to stderr, in `format`, as far as `filter` lets it; and to `tap`. Ends with [`finish`].
///
/// # Errors
/// When the filter is malformed, or logging was set up before.
pub fn init(filter: &str, format: Format, tap: Tap) -> Result<Levels, LogError> {
    let (levels, in_force) = Levels::new(filter)?;
    let writer = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).thread_name("log");
    let (writer, guard) = writer.finish(io::stderr());
    let _ = DROPPED.set(writer.error_counter());
    *lock(&WRITER) = Some(guard);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let terminal = io::stderr().is_terminal();
    let log = tracing_subscriber::registry().with(in_force).with(tap);
    let json = format == Format::Json || (format == Format::Auto && !terminal);
    IN_JSON.store(json, Ordering::Relaxed);
    let done = if json {
        log.with(lines.event_format(JsonLines)).try_init()
    } else {
        log.with(lines.with_timer(Time).with_target(false).with_ansi(terminal)).try_init()
    };
    done.map(|()| levels).map_err(|_| LogError::Twice)
}

/// One JSON object a line: `timestamp`, `level`, `service`, `trace_id`, `span_id`, `message`, then
/// the event's own fields.
pub struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writeln!(writer, "{}", Line::of(event).into_json())
    }
}

/// What is logged at one time.
#[derive(Debug, Clone)]
pub struct Line {
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// How serious it is.
    pub severity: Severity,
    /// The module that logs it.
    pub target: &'static str,
    /// `message`, the trace's ids where there is a trace, and the event's own fields.
    pub fields: Map<String, Value>,
}

impl Line {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let severity = Severity::of(*metadata.level());
        Self { wall_ms: clock::wall_ms(), severity, target: metadata.target(), fields: fields.0 }
    }

    /// The last one of a process that cannot go on.
    #[must_use]
    pub fn fatal(why: &str) -> Self {
        let fields = Map::from_iter([("message".to_owned(), why.into())]);
        Self { wall_ms: clock::wall_ms(), severity: Severity::Fatal, target: "im_gateway", fields }
    }

    /// One JSON object, without a line's end.
    #[must_use]
    pub fn into_json(mut self) -> String {
        let mut text = String::with_capacity(256);
        let mut put = |name: &str, value: &Value| {
            text.push(if text.is_empty() { '{' } else { ',' });
            // A string and a value that serde_json made are always JSON.
            let _ = write!(text, "{}:{value}", Value::from(name));
        };
        put("timestamp", &timestamp(self.wall_ms).into());
        put("level", &self.severity.name().into());
        put("service", &SERVICE.into());
        for name in ["trace_id", "span_id", "message"] {
            put(name, &self.fields.remove(name).unwrap_or_else(|| "".into()));
        }
        for (name, value) in &self.fields {
            put(name, value);
        }
        put("target", &self.target.into());
        text.push('}');
        text
    }
}

/// How serious a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Of use to whoever looks for a fault.
    Debug,
    /// As it should be.
    Info,
    /// May become trouble.
    Warn,
    /// Something failed.
    Error,
    /// The process ends by it.
    Fatal,
}

impl Severity {
    fn of(level: Level) -> Self {
        match level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warn,
            Level::INFO => Self::Info,
            Level::DEBUG | Level::TRACE => Self::Debug,
        }
    }

    /// As lines have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// Takes log lines, from any thread; must not block, nor log.
pub trait LineSink: Send + Sync + 'static {
    /// Takes one.
    fn take(&self, line: Line);
}

/// Lines that wait for a tap to be opened, at most: what a node says before it knows its name.
const EARLY_LINES: usize = 256;

/// Where lines go besides. What comes before it is opened waits for that.
#[derive(Clone, Default)]
pub struct Tap(Arc<Tapped>);

#[derive(Default)]
struct Tapped {
    /// `None` within: nowhere.
    sink: OnceLock<Option<Arc<dyn LineSink>>>,
    early: Mutex<Vec<Line>>,
}

impl Tap {
    /// Lets lines go there from now on, those that waited first; `None`: nowhere. Once.
    pub fn open(&self, sink: Option<Arc<dyn LineSink>>) {
        let mut early = lock(&self.0.early);
        for line in std::mem::take(&mut *early) {
            sink.iter().for_each(|sink| sink.take(line.clone()));
        }
        let _ = self.0.sink.set(sink);
    }

    /// Whether it was opened.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.sink.get().is_some()
    }

    /// Takes a line that is not logged.
    pub fn take(&self, line: Line) {
        if !self.is_open() {
            let mut early = lock(&self.0.early);
            if !self.is_open() {
                if early.len() < EARLY_LINES {
                    early.push(line);
                }
                return;
            }
        }
        if let Some(Some(sink)) = self.0.sink.get() {
            sink.take(line);
        }
    }

    /// Whether nothing is taken.
    fn is_closed(&self) -> bool {
        matches!(self.0.sink.get(), Some(None))
    }
}

impl<S: Subscriber> Layer<S> for Tap {
    fn on_event(&self, event: &Event<'_>, _ctx: Context<'_, S>) {
        // What is said of an export must not be exported: it would go on for ever.
        if !self.is_closed() && !event.metadata().target().starts_with(EXPORTER) {
            self.take(Line::of(event));
        }
    }
}

/// An event's fields, in the order of their names.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

/// The time of text lines.
struct Time;

impl FormatTime for Time {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&timestamp(clock::wall_ms()))
    }
}

/// RFC 3339 in UTC, to the millisecond.
fn timestamp(wall_ms: u64) -> String {
    let (seconds, ms) = (wall_ms / 1000, wall_ms % 1000);
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, date) = civil(day);
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}.{ms:03}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of the month, `days` after 1970-01-01. Counts in eras of 400 years that
/// begin on a 1st of March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, date)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn knows_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_767_225_600, "2026-01-01T00:00:00.007Z"),
            (1_798_761_599, "2026-12-31T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(timestamp(seconds * 1000 + 7), text);
        }
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Default)]
    struct Taken(Mutex<Vec<Line>>);

    impl LineSink for Taken {
        fn take(&self, line: Line) {
            self.0.lock().unwrap().push(line);
        }
    }

    #[test]
    fn a_tap_gives_all_lines_once_it_is_open_but_not_the_exporters() {
        let (tap, taken) = (Tap::default(), Arc::new(Taken::default()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(tap.clone()), || {
            tracing::info!("before");
            tap.open(Some(taken.clone()));
            tracing::warn!(target: "im_gateway::telemetry::otlp::client", "telemetry is not taken");
            tracing::warn!(trace_id = "7", tries = 3, "after");
        });
        let lines = taken.0.lock().unwrap();
        assert_eq!(lines.iter().map(|line| &line.fields["message"]).collect::<Vec<_>>(), ["before", "after"]);
        assert_eq!(
            (lines[1].severity, &lines[1].fields["trace_id"], &lines[1].fields["tries"]),
            (Severity::Warn, &"7".into(), &3.into())
        );
    }

    #[test]
    fn a_tap_that_is_closed_keeps_nothing() {
        let tap = Tap::default();
        (0..2 * EARLY_LINES).for_each(|_| tap.take(Line::fatal("early")));
        assert_eq!(lock(&tap.0.early).len(), EARLY_LINES);
        tap.open(None);
        tap.take(Line::fatal("late"));
        assert!(lock(&tap.0.early).is_empty());
    }

    #[test]
    fn a_line_is_one_json_object() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(JsonLines).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(event = "auth_failed", remote_addr = %"::1", tries = 3, "no\n\"token\"");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("{\"timestamp\":\"20"), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["level"], &value["service"]), (&"WARN".into(), &SERVICE.into()));
        assert_eq!((&value["event"], &value["message"]), (&"auth_failed".into(), &"no\n\"token\"".into()));
        assert_eq!((&value["remote_addr"], &value["tries"]), (&"::1".into(), &3.into()));
        assert!(value["trace_id"].is_string() && value["span_id"].is_string());
    }
}
