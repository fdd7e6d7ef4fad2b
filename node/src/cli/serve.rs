//! `serve`: one node, until it is told to stop.

use super::args::ServeArgs;
use super::failure::Failure;
use crate::config::{Config, Sources, load};

/// Reads the configuration of `args` over `defaults` and checks it. The second value holds warnings.
fn configure(args: &ServeArgs, defaults: &Config) -> Result<(Config, Vec<String>), Failure> {
    let sources =
        Sources { file: args.config.clone(), environment: super::process::environment(), flags: args.overrides() };
    let (config, strange) = load(defaults, &sources)?;
    let config = config.check()?;
    let strange = strange.into_iter().map(|name| format!("{name} is no setting of im-gateway; ignored"));
    let warnings = strange.chain(config.warnings()).collect();
    Ok((config, warnings))
}

/// Runs a node.
///
/// # Errors
/// A bad configuration; a node that cannot start, or that had to stop.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let (config, warnings) = configure(args, &Config::default())?;
    if args.print_config {
        return super::process::print(config.print().trim_end());
    }
    if let Some(parent) = args.supervisor {
        super::process::die_with(parent)?;
    }
    let _ = warnings;
    Ok(())
}
