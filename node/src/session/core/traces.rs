//! The steps of traced messages that pass a session: recorded when they are over, by times noted before.
//!
//! Invariant: on one node, the times of a trace's steps are of one wall clock reading and the monotonic
//! clock, so no step ends before it begins, whatever is done to the wall clock meanwhile.

use std::collections::VecDeque;

use cluster::env::clock::Instant;
use cluster::id::{MessageId, Pos};
use cluster::session::Outgoing;
use cluster::state::{Destination, Message};
use cluster::trace::{SpanId, TraceContext};

use super::{Core, Moment};
use crate::protocol::ErrorCode;
use crate::telemetry::{Span, Step};

/// A traced send without an answer.
#[derive(Debug)]
pub struct Sending {
    pub context: TraceContext,
    parent: Option<SpanId>,
    received: Moment,
    mid: MessageId,
    to: Destination,
    bytes: usize,
}

/// A traced message that was written to the device, and is not acknowledged.
struct Written {
    context: TraceContext,
    mid: MessageId,
    seq: Pos,
    at: Moment,
}

/// Those of one session, in the order of their places.
#[derive(Default)]
pub struct Unacked(VecDeque<Written>);

impl Moment {
    /// An instant around this moment, in ns since the Unix epoch.
    fn ns(&self, instant: Instant) -> u64 {
        let (now, instant) = (self.now.as_nanos(), instant.as_nanos());
        (self.wall_ms * 1_000_000)
            .saturating_add(instant.saturating_sub(now))
            .saturating_sub(now.saturating_sub(instant))
    }
}

impl Core {
    /// Decides whether a message is traced.
    pub(super) fn begin_trace(&self, out: &mut Outgoing, asked: Option<&str>, at: Moment) -> Option<Box<Sending>> {
        let (context, parent) = self.node.tracer.begin(&out.mid, asked, at.now)?;
        out.trace = Some(context);
        let (mid, to, bytes) = (out.mid, out.to.clone(), out.body.len());
        Some(Box::new(Sending { context, parent, received: at, mid, to, bytes }))
    }

    /// The log has decided on the oldest send.
    pub(super) fn decided(&self, proposed: Instant, applied: Instant) {
        let Some(send) = self.answers.oldest_trace() else { return };
        let context = TraceContext { span: SpanId::random(), ..send.context };
        let (start_ns, end_ns) = (send.received.ns(proposed), send.received.ns(applied));
        let (parent, mid) = (Some(send.context.span), send.mid);
        self.node.tracer.record(Span { context, parent, start_ns, end_ns, mid, device: None, step: Step::Store });
    }

    /// The oldest send is answered.
    pub(super) fn answered_trace(&self, refused: Option<ErrorCode>, at: Moment) {
        let Some(send) = self.answers.oldest_trace() else { return };
        let (to, bytes) = (send.to.clone(), send.bytes);
        self.node.tracer.record(Span {
            context: send.context,
            parent: send.parent,
            start_ns: send.received.ns(send.received.now),
            end_ns: send.received.ns(at.now),
            mid: send.mid,
            device: Some((self.user.clone(), self.device.clone())),
            step: Step::Send { to, bytes, refused },
        });
    }

    /// A message was written to the device.
    pub(super) fn written_trace(&mut self, message: &Message, at: Moment) {
        let Some(traced) = message.trace.get() else { return };
        let (mid, seq) = (message.mid, message.pos);
        let context = TraceContext { span: SpanId::random(), ..traced.context };
        // It may have been read before that was noted.
        let stored = traced.stored_at().unwrap_or(at.now).min(at.now);
        let waited = stored < self.since;
        self.node.tracer.record(Span {
            context,
            parent: Some(traced.context.span),
            start_ns: at.ns(stored.max(self.since)),
            end_ns: at.ns(at.now),
            mid,
            device: Some((self.user.clone(), self.device.clone())),
            step: Step::Deliver { seq, waited },
        });
        self.unacked.0.push_back(Written { context, mid, seq, at });
    }

    /// The device has everything up to `upto`.
    pub(super) fn acked_traces(&mut self, upto: Pos, at: Moment) {
        while let Some(written) = self.unacked.0.pop_front_if(|written| written.seq <= upto) {
            self.node.tracer.record(Span {
                context: TraceContext { span: SpanId::random(), ..written.context },
                parent: Some(written.context.span),
                start_ns: written.at.ns(written.at.now),
                end_ns: written.at.ns(at.now),
                mid: written.mid,
                device: Some((self.user.clone(), self.device.clone())),
                step: Step::Ack { seq: written.seq },
            });
        }
        if self.unacked.0.is_empty() {
            // An idle connection keeps no buffer.
            self.unacked = Unacked::default();
        }
    }
}
