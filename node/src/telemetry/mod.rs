//! What the node tells its operators: metrics and logs.

mod connections;
mod disk;
mod gauges;
mod levels;
pub mod logs;
mod metrics;
#[cfg(feature = "real")]
mod process;
#[cfg(feature = "real")]
mod quota;
mod sample;
mod seldom;
mod trail;

pub use connections::{CONNECTION_LOST, ConnectionError, Part};
pub use levels::{Levels, LogError};
pub use metrics::Metrics;
pub use sample::Sampler;
pub use seldom::Seldom;
pub use trail::{Trail, What};
