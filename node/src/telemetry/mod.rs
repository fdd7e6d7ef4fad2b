//! What the node tells its operators: metrics and logs.

mod gauges;
pub mod logs;
mod metrics;
#[cfg(feature = "real")]
mod process;
mod sample;
mod seldom;

pub use metrics::{CONNECTION_LOST, ConnectionError, Metrics};
pub use sample::Sampler;
pub use seldom::Seldom;
