//! Which messages are traced: W3C trace context, as the log carries it, and what a replica notes of it.
//!
//! Invariant: no part of the replicated state. A message with a context is stored, ordered and hashed as
//! one without; what a checkpoint brought is traced no further. An untraced message costs one empty pointer.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::env::clock::Instant;

/// A trace: everything that happens because of one message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TraceId(pub [u8; 16]);

/// One step of a trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpanId(pub NonZeroU64);

impl SpanId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random_range(1..=u64::MAX).try_into().expect("the range begins at 1"))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A step that others may follow. Only what is sampled has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The step in it: the parent of those that follow.
    pub span: SpanId,
}

/// A traced message, on one replica.
#[derive(Debug)]
pub struct Traced {
    /// Its send.
    pub context: TraceContext,
    applied: OnceLock<Instant>,
}

impl Traced {
    /// Notes when this replica stored the message.
    pub fn stored(&self, at: Instant) {
        let _ = self.applied.set(at);
    }

    /// When this replica stored it; `None` for the moment between storing and noting that.
    #[must_use]
    pub fn stored_at(&self) -> Option<Instant> {
        self.applied.get().copied()
    }
}

impl PartialEq for Traced {
    fn eq(&self, other: &Self) -> bool {
        self.context == other.context
    }
}

impl Eq for Traced {}

/// A replica's own mark on a message that is traced. All marks are equal, as replicas differ in them.
#[derive(Debug, Clone, Default)]
pub struct Mark(Option<Arc<Traced>>);

impl Mark {
    pub(crate) fn new(context: Option<TraceContext>) -> Self {
        Self(context.map(|context| Arc::new(Traced { context, applied: OnceLock::new() })))
    }

    /// What is known of it, if the message is traced.
    #[must_use]
    pub fn get(&self) -> Option<&Arc<Traced>> {
        self.0.as_ref()
    }

    /// The message's send, if it is traced.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|traced| traced.context)
    }
}

impl PartialEq for Mark {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Mark {}
