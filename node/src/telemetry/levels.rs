//! Which log lines are written, and how that is changed while the node runs.
//!
//! Invariant: there is always one filter in force, and a malformed one changes nothing.

use std::sync::Mutex;

use cluster::sync::lock;
use tracing::Level;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Logs could not be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error(
        "`{filter}` is no log filter ({why}): use error, warn, info, debug or trace, or such as info,cluster=debug"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody else logs already.
    #[error("logging is set up already")]
    Twice,
}

/// The filter of a process's log.
#[derive(Debug)]
pub struct Levels {
    handle: reload::Handle<EnvFilter, Registry>,
    /// As it was given. Locked while it is replaced, so that the two never differ.
    filter: Mutex<String>,
}

impl Levels {
    /// Begins with this filter; the layer that filters by it is for the process's subscriber.
    ///
    /// # Errors
    /// A malformed filter.
    pub fn new(filter: &str) -> Result<(Self, reload::Layer<EnvFilter, Registry>), LogError> {
        let (layer, handle) = reload::Layer::new(parse(filter)?);
        Ok((Self { handle, filter: Mutex::new(filter.to_owned()) }, layer))
    }

    /// The filter in force.
    #[must_use]
    pub fn filter(&self) -> String {
        lock(&self.filter).clone()
    }

    /// Puts another filter in force.
    ///
    /// # Errors
    /// A malformed filter; the one before stays.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse(filter)?;
        let mut in_force = lock(&self.filter);
        self.handle.reload(parsed).map_err(|error| refused(filter, error))?;
        filter.clone_into(&mut in_force);
        Ok(())
    }
}

fn refused(filter: &str, why: impl ToString) -> LogError {
    LogError::Filter { filter: filter.to_owned(), why: why.to_string() }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    // One that stands alone would be taken for a module's name: a typing error, and then silence.
    let is_level = |word: &str| word == "off" || word.parse::<Level>().is_ok();
    let alone = parts(filter).find(|part| !part.contains(['=', '[']) && !is_level(part));
    if let Some(alone) = alone {
        let why = if alone.is_empty() { "a part of it is empty".to_owned() } else { format!("{alone} is no level") };
        return Err(refused(filter, why));
    }
    // The libraries' own reports are for those who ask for them. openraft warns of every heartbeat
    // that a dead node misses; that the node is lost is in the log once, from us.
    let directives = match filter.parse::<Level>() {
        Ok(Level::ERROR) => filter.to_owned(),
        Ok(_) => format!("{filter},openraft=error,sled=warn"),
        Err(_) => filter.to_owned(),
    };
    EnvFilter::try_new(directives).map_err(|error| refused(filter, error))
}

/// What stands between commas, but for those in braces: `[span{a=1,b=2}]` is one.
fn parts(filter: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let at_comma = move |c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    filter.split(at_comma).map(str::trim)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn another_filter_is_in_force_at_once_and_a_bad_one_changes_nothing() {
        let (levels, layer) = Levels::new("info").expect("a level");
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let on = |target: &str| match target {
                "openraft" => tracing::enabled!(target: "openraft", Level::WARN),
                _ => tracing::enabled!(target: "im_gateway", Level::DEBUG),
            };
            assert!(!on("im_gateway") && !on("openraft"), "libraries are damped");
            levels.set("debug").expect("a level");
            assert!(on("im_gateway") && !on("openraft"), "as they are at every level");
            for bad in [
                "",
                "debgu",
                "info,cluster=loud",
                "a=b=c",
                "infoo,cluster=warn",
                "cluster=warn,im_gateway",
                "info,",
                ",",
                "1nfo,x[y{z=1,w=2}]=info",
            ] {
                let error = levels.set(bad).expect_err("no filter").to_string();
                assert!(error.contains(&format!("`{bad}` is no log filter")), "{error}");
                assert_eq!(levels.filter(), "debug");
                assert!(on("im_gateway"));
            }
            levels.set("info,openraft=warn").expect("a filter");
            assert!(!on("im_gateway") && on("openraft"), "unless they are named");
            assert_eq!(levels.filter(), "info,openraft=warn");
        });
    }
}
