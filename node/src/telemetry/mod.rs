//! What the node tells its operators: metrics and logs.

mod gauges;
mod metrics;
#[cfg(feature = "real")]
mod process;

pub use metrics::{CONNECTION_LOST, ConnectionError, Metrics};
