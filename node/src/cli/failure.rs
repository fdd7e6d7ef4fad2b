//! How a command fails: one line, and an exit code.

use std::fmt;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::config::Invalid;

/// Why a command ended without success.
#[derive(Debug)]
pub enum Failure {
    /// The command line or the configuration is at fault: exit code 2.
    Usage(String),
    /// It could not be done: exit code 1.
    Failed(String),
}

impl Failure {
    /// The process's exit code for this failure.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(text) | Self::Failed(text)) = self;
        // One line, whatever the libraries below put into their messages.
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        f.write_str(lines.next().unwrap_or("failed"))?;
        lines.try_for_each(|line| write!(f, " {line}"))
    }
}

impl From<Invalid> for Failure {
    fn from(Invalid(text): Invalid) -> Self {
        Self::Usage(text)
    }
}

/// Shorthand for [`Failure::Failed`] with a text.
pub fn failed<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Failed(text.into()))
}

/// Shorthand for [`Failure::Usage`] with a text.
pub fn usage<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Usage(text.into()))
}

/// What clap reports: help and version are no failures, and the rest becomes one line.
pub fn from_clap(error: &clap::Error) -> Result<(), Failure> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return error.print().or_else(|error| failed(format!("cannot write to standard output: {error}")));
    }
    let text = error.to_string();
    let text = text.split("\n\nUsage:").next().unwrap_or(&text);
    let text = text.split("\n\nFor more information").next().unwrap_or(text);
    let text = text.trim_start_matches("error: ").replace("\n\n  tip:", "; tip:");
    usage(format!("{}; see --help", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::Failed("TOML parse error\n  |\n1 | x\n\n expected `=`".into());
        assert_eq!(failure.to_string(), "TOML parse error | 1 | x expected `=`");
    }
}
