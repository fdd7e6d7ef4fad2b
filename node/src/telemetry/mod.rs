//! What the node tells its operators: metrics, logs and traces.

mod connections;
#[cfg(feature = "real")]
mod data;
mod disk;
mod export;
mod gauges;
mod levels;
pub mod logs;
mod metrics;
#[cfg(feature = "real")]
mod otlp;
#[cfg(feature = "real")]
mod process;
#[cfg(feature = "real")]
mod quota;
mod sample;
mod seldom;
mod sessions;
mod spans;
mod trail;

pub use connections::{CONNECTION_LOST, ConnectionError, Part};
pub use levels::{Levels, LogError};
pub use metrics::{Metrics, whole_ms};
#[cfg(feature = "real")]
pub use otlp::{Otlp, OtlpConfig, OtlpError};
pub use sample::Sampler;
pub use seldom::Seldom;
pub use sessions::{Leaving, Rate};
pub use spans::{Span, SpanSink, Step, TraceConfig, Tracer, ids};
pub use trail::{Trail, What};
