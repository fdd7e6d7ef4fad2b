//! Begins to log as configured.

use im_gateway::telemetry::logs::{Format, LogError, init};

use super::failure::{Failure, usage};
use crate::config::{Log, LogFormat};

/// Begins to log as configured.
///
/// # Errors
/// A level or filter that is none.
pub fn start(log: &Log) -> Result<(), Failure> {
    let format = match log.format {
        LogFormat::Auto => Format::Auto,
        LogFormat::Json => Format::Json,
        LogFormat::Text => Format::Text,
    };
    match init(&log.level, format) {
        // A second subscriber is possible in no command, so the first one is always taken.
        Ok(()) | Err(LogError::Twice) => Ok(()),
        Err(error @ LogError::Filter { .. }) => usage(format!("`log.level`: {error}")),
    }
}
