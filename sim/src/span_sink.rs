//! What the nodes say of traced messages, collected as a collector would.

use std::sync::{Arc, Mutex, MutexGuard};

use cluster::sync::lock;
use im_gateway::telemetry::{Span, SpanSink};

/// All spans of a run, each with the process that made it, in the order in which they were finished.
#[derive(Debug, Clone, Default)]
pub struct Spans(Arc<Mutex<Vec<(String, Span)>>>);

impl Spans {
    /// Where a process's spans go.
    pub fn of(&self, process: String) -> Arc<dyn SpanSink> {
        Arc::new(Of { process, all: self.clone() })
    }

    /// What has come so far.
    pub fn lock(&self) -> MutexGuard<'_, Vec<(String, Span)>> {
        lock(&self.0)
    }
}

#[derive(Debug)]
struct Of {
    process: String,
    all: Spans,
}

impl SpanSink for Of {
    fn take(&self, span: Span) {
        self.all.lock().push((self.process.clone(), span));
    }
}
