//! Which messages are traced, and the finished steps of those that are.
//!
//! A step is recorded when it is over, from times that are known then, next to where the trail notes it.
//! Invariants: a message that is not traced costs a comparison, no lock and no memory; what clients ask
//! for is bounded: no more than so many spans a second leave a node.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster::env::clock::{self, Instant};
use cluster::id::{DeviceId, MessageId, Pos, UserId};
use cluster::state::Destination;
use cluster::trace::{SpanId, TraceContext, TraceId};

use super::Metrics;
use crate::protocol::{ErrorCode, Traceparent};

/// A finished step of a message's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The step.
    pub context: TraceContext,
    /// The step that it follows; `None` begins a trace.
    pub parent: Option<SpanId>,
    /// When it began, by this node's wall clock, in ns since the Unix epoch.
    pub start_ns: u64,
    /// When it ended, not before it began.
    pub end_ns: u64,
    /// The message.
    pub mid: MessageId,
    /// The device on whose behalf, or to which: of all steps but the log's.
    pub device: Option<(UserId, DeviceId)>,
    /// What was done.
    pub step: Step,
}

/// What a node does with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// From the frame's arrival to its answer.
    Send {
        /// To whom.
        to: Destination,
        /// Of the body.
        bytes: usize,
        /// Why it was refused, if it was.
        refused: Option<ErrorCode>,
    },
    /// From proposing the batch with the message to applying it.
    Store,
    /// From storing it on the recipient's node, or from the device's coming if that is later, to writing its frame.
    Deliver {
        /// Its place.
        seq: Pos,
        /// The device was not there when it was stored.
        waited: bool,
    },
    /// From writing its frame to the device's acknowledgement.
    Ack {
        /// Its place.
        seq: Pos,
    },
}

impl Step {
    /// The span's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Send { .. } => "send",
            Self::Store => "store",
            Self::Deliver { .. } => "deliver",
            Self::Ack { .. } => "ack",
        }
    }
}

/// Takes finished spans, from any thread; must not block.
pub trait SpanSink: Debug + Send + Sync + 'static {
    /// Takes one.
    fn take(&self, span: Span);
}

/// What is traced.
#[derive(Debug, Clone)]
pub struct TraceConfig {
    /// One message in so many, beside those whose sender asks for it; 0: no other.
    pub one_in: u64,
    /// Spans of this node in a second, at most.
    pub spans_per_s: u32,
    /// Where spans go; without it a trace is known to log lines only.
    pub sink: Option<Arc<dyn SpanSink>>,
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self { one_in: 0, spans_per_s: 1_000, sink: None }
    }
}

/// Decides what is traced, and passes spans on.
pub struct Tracer {
    config: TraceConfig,
    metrics: Arc<Metrics>,
    rate: Rate,
}

impl Tracer {
    /// Counts what it drops in `metrics`.
    #[must_use]
    pub fn new(config: TraceConfig, metrics: Arc<Metrics>) -> Self {
        let rate = Rate { per_s: config.spans_per_s, second: AtomicU64::new(0) };
        Self { config, metrics, rate }
    }

    /// The context of a message's send, and what it follows, if it is to be traced: as its sender `asked`,
    /// or else by its id, so that a repeat is traced like the first. The trace has the message's id then.
    #[must_use]
    pub fn begin(&self, mid: &MessageId, asked: Option<&str>, now: Instant) -> Option<(TraceContext, Option<SpanId>)> {
        let (trace, parent) = match asked.and_then(Traceparent::parse) {
            Some(asked) => asked.sampled.then_some((asked.context.trace, Some(asked.context.span)))?,
            None => self.chosen(mid).then_some((TraceId(mid.0), None))?,
        };
        self.rate.has_room(now).then(|| (TraceContext { trace, span: SpanId::random() }, parent))
    }

    fn chosen(&self, mid: &MessageId) -> bool {
        let random = u64::from_be_bytes(mid.0[8..].try_into().expect("it has 16 bytes"));
        self.config.one_in > 0 && random.is_multiple_of(self.config.one_in)
    }

    /// Takes a finished span.
    pub fn record(&self, span: Span) {
        let Some(sink) = &self.config.sink else { return };
        if self.rate.take(clock::now()) {
            sink.take(span);
        } else {
            self.metrics.telemetry.dropped_over_rate();
        }
    }
}

/// So many a second.
struct Rate {
    per_s: u32,
    /// Which second in the upper half, how many in it in the lower.
    second: AtomicU64,
}

impl Rate {
    /// How many there are in the second of this instant.
    fn count(second: u64, now: Instant) -> (u64, u64) {
        let this = (now.as_nanos() / 1_000_000_000) & 0xffff_ffff;
        (this, if second >> 32 == this { second & 0xffff_ffff } else { 0 })
    }

    fn has_room(&self, now: Instant) -> bool {
        Self::count(self.second.load(Ordering::Relaxed), now).1 < self.per_s.into()
    }

    fn take(&self, now: Instant) -> bool {
        let one_more = |second| {
            let (this, count) = Self::count(second, now);
            (count < self.per_s.into()).then_some(this << 32 | (count + 1))
        };
        self.second.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }
}

/// A trace's ids as log lines have them.
#[must_use]
pub fn ids(trace: Option<&TraceContext>) -> (Option<String>, Option<String>) {
    trace.map(|context| (context.trace.to_string(), context.span.to_string())).unzip()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<Span>>);

    impl SpanSink for Kept {
        fn take(&self, span: Span) {
            self.0.lock().unwrap().push(span);
        }
    }

    fn tracer(one_in: u64, spans_per_s: u32) -> (Tracer, Arc<Kept>) {
        let kept = Arc::new(Kept::default());
        let config = TraceConfig { one_in, spans_per_s, sink: Some(kept.clone()) };
        (Tracer::new(config, Arc::new(Metrics::new())), kept)
    }

    fn mid(n: u64) -> MessageId {
        let mut bytes = [7; 16];
        bytes[8..].copy_from_slice(&n.to_be_bytes());
        MessageId(bytes)
    }

    const ASKED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const DECLINED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    #[test]
    fn senders_are_asked_first_then_one_in_so_many_is_chosen() {
        let (tracer, _) = tracer(10, 100);
        let begin = |n, asked| tracer.begin(&mid(n), asked, Instant::default());
        let (context, parent) = begin(1, Some(ASKED)).expect("asked for");
        assert_eq!(context.trace.to_string(), ASKED[3..35]);
        assert_eq!(parent.expect("the sender's step").to_string(), ASKED[36..52]);
        assert_ne!(Some(context.span), parent);
        assert_eq!(begin(10, Some(DECLINED)), None, "whatever the node would choose");
        for malformed in [None, Some("nonsense")] {
            assert_eq!(begin(11, malformed), None);
            let (context, parent) = begin(20, malformed).expect("chosen");
            assert_eq!((context.trace.0, parent), (mid(20).0, None));
        }
        assert_eq!((0..100).filter(|n| begin(*n, None).is_some()).count(), 10);
    }

    #[test]
    fn nobody_makes_a_node_trace_without_bound() {
        let (tracer, kept) = tracer(1, 3);
        let now = clock::now();
        let (context, parent) = tracer.begin(&mid(0), None, now).expect("there is room");
        let span = Span { context, parent, start_ns: 1, end_ns: 2, mid: mid(0), device: None, step: Step::Store };
        for _ in 0..3 {
            assert!(tracer.rate.take(now));
        }
        assert_eq!(tracer.begin(&mid(0), Some(ASKED), now), None, "not even who asks");
        assert!(!tracer.rate.take(now));
        let later = now + Duration::from_secs(1);
        assert!(tracer.begin(&mid(0), Some(ASKED), later).is_some());
        assert!(tracer.rate.take(later));
        // A record takes its place in the present second, of which nothing is known here but its limit.
        (0..100).for_each(|_| tracer.record(span.clone()));
        let taken = kept.0.lock().unwrap().len();
        assert!((1..=9).contains(&taken), "{taken}");
        assert!(tracer.metrics.render("n").contains("signal=\"traces\"} "), "what was dropped is counted");
    }
}
