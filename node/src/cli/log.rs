//! Begins to log as configured.

use std::sync::Arc;

use im_gateway::telemetry::logs::{Format, Tap, init};
use im_gateway::telemetry::{Levels, LogError};

use super::failure::{Failure, failed, usage};
use crate::config::{Log, LogFormat};

/// Begins to log as configured, and to `tap`; what is logged can be changed by what it returns.
///
/// # Errors
/// A level or filter that is none.
pub fn start(log: &Log, tap: Tap) -> Result<Arc<Levels>, Failure> {
    let format = match log.format {
        LogFormat::Auto => Format::Auto,
        LogFormat::Json => Format::Json,
        LogFormat::Text => Format::Text,
    };
    match init(&log.level, format, tap) {
        Ok(levels) => Ok(Arc::new(levels)),
        Err(error @ LogError::Filter { .. }) => usage(format!("`log.level`: {error}")),
        Err(error @ LogError::Twice) => failed(error.to_string()),
    }
}
