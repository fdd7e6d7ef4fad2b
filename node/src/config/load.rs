//! Merges the sources: defaults < TOML file < `IMGW_*` environment < flags.
//!
//! An environment variable is named after its key: `limits.ping_ms` is `IMGW_LIMITS_PING_MS`. It is
//! read by the type of the key's default, so a secret of digits stays a string.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};

use super::{Config, Invalid};

/// Short names for what is set most often.
const ALIASES: [(&str, &str); 6] = [
    ("IMGW_JWT_SECRET", "auth.secret"),
    ("IMGW_JWKS", "auth.jwks"),
    ("IMGW_ADMIN_TOKEN", "admin.token"),
    ("IMGW_HTTP", "listen.http"),
    ("IMGW_PEER", "listen.peer"),
    ("IMGW_JOIN", "cluster.join"),
];

/// `IMGW_*` variables that are not keys: the file itself, and what the client commands read.
const OTHERS: [&str; 5] = ["IMGW_CONFIG", "IMGW_URL", "IMGW_TOKEN", "IMGW_CA", "IMGW_SUPERVISOR"];

/// Values given by flags: the key's path, and the value.
#[derive(Debug, Clone, Default)]
pub struct Overrides(Vec<(&'static str, Value)>);

impl Overrides {
    /// Sets `path` when the flag was given.
    pub fn set<T: Into<Value>>(&mut self, path: &'static str, value: Option<T>) {
        self.0.extend(value.map(|value| (path, value.into())));
    }
}

/// Where a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The TOML file, if one was named.
    pub file: Option<PathBuf>,
    /// The environment; only `IMGW_*` matters.
    pub environment: BTreeMap<String, String>,
    /// What the command line says.
    pub flags: Overrides,
}

/// Reads and merges all sources over `defaults`. The second value names `IMGW_*` variables that
/// mean nothing, for a warning.
///
/// # Errors
/// A file that cannot be read, a key that does not exist, a value of the wrong kind.
pub fn load(defaults: &Config, sources: &Sources) -> Result<(Config, Vec<String>), Invalid> {
    let known = known_keys(defaults);
    let (environment, strange) = from_environment(&known, &sources.environment);
    let mut figment = Figment::from(Serialized::defaults(Masked(defaults)));
    if let Some(file) = &sources.file {
        figment = figment.merge(Toml::string(&read(file)?));
    }
    let layers = [Layer("environment", environment), Layer("flag", nest(sources.flags.0.iter().cloned()))];
    for layer in layers {
        figment = figment.merge(layer);
    }
    let config = figment.extract().map_err(|error| explain(&error, sources.file.as_deref()))?;
    Ok((config, strange))
}

/// The defaults as a source. They never hold secrets, so that masking loses nothing.
struct Masked<'a>(&'a Config);

impl serde::Serialize for Masked<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(self.0.auth.secret.is_none() && self.0.cluster.secret.is_none(), "defaults hold no secrets");
        self.0.serialize(serializer)
    }
}

struct Layer(&'static str, Dict);

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0)
    }
    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Profile::Default.collect(self.1.clone()))
    }
}

fn read(file: &Path) -> Result<String, Invalid> {
    std::fs::read_to_string(file).map_err(|error| {
        Invalid(format!("cannot read the configuration file {}: {error}; give an existing file", file.display()))
    })
}

/// Every key's path with its default.
fn known_keys(defaults: &Config) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, value: Value, into: &mut BTreeMap<String, Value>) {
        match value {
            Value::Dict(_, dict) => {
                for (key, value) in dict {
                    let path = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                    walk(&path, value, into);
                }
            }
            value => drop(into.insert(prefix.to_owned(), value)),
        }
    }
    let mut into = BTreeMap::new();
    walk("", Value::serialize(defaults).expect("a configuration is representable"), &mut into);
    into
}

fn variable(path: &str) -> String {
    format!("IMGW_{}", path.replace('.', "_").to_uppercase())
}

fn from_environment(known: &BTreeMap<String, Value>, environment: &BTreeMap<String, String>) -> (Dict, Vec<String>) {
    let mut names: BTreeMap<String, &str> = known.keys().map(|path| (variable(path), path.as_str())).collect();
    names.extend(ALIASES.iter().map(|(name, path)| ((*name).to_owned(), *path)));
    let mut values = Vec::new();
    let mut strange = Vec::new();
    for (name, text) in environment.iter().filter(|(name, _)| name.starts_with("IMGW_")) {
        match names.get(name) {
            Some(path) => values.push((*path, typed(&known[*path], text))),
            None if OTHERS.contains(&name.as_str()) => {}
            None => strange.push(name.clone()),
        }
    }
    (nest(values.into_iter()), strange)
}

/// Reads `text` as the kind of value that `default` is; what does not parse stays a string, for
/// the error to show.
fn typed(default: &Value, text: &str) -> Value {
    let text = text.trim();
    let string = || Value::from(text);
    match default {
        Value::Bool(..) => text.parse::<bool>().map_or_else(|_| string(), Value::from),
        Value::Num(..) => text.parse::<u64>().map_or_else(|_| string(), Value::from),
        Value::Array(..) => list(text).into(),
        _ => string(),
    }
}

/// The parts of a comma-separated list.
fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn nest<'a>(values: impl Iterator<Item = (&'a str, Value)>) -> Dict {
    let mut root = Dict::new();
    for (path, value) in values {
        let mut at = &mut root;
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                at.insert(part.to_owned(), value);
                break;
            }
            let next = at.entry(part.to_owned()).or_insert_with(|| Dict::new().into());
            let Value::Dict(_, dict) = next else { unreachable!("a section is not a value") };
            at = dict;
        }
    }
    root
}

/// One line for one error: which key, where it was set, what is wrong, what would be right.
fn explain(error: &Error, file: Option<&Path>) -> Invalid {
    let path = error.path.join(".");
    let origin = match error.metadata.as_ref().map(|metadata| metadata.name.as_ref()) {
        Some("environment") => format!("environment variable {}", variable(&path)),
        Some("flag") => "command line".to_owned(),
        _ => file.map_or_else(|| "configuration".to_owned(), |file| file.display().to_string()),
    };
    let text = match &error.kind {
        Kind::UnknownField(name, known) => {
            let section = path.strip_suffix(name.as_str()).unwrap_or(&path).trim_end_matches('.');
            let place = if section.is_empty() { "at the top level".to_owned() } else { format!("in [{section}]") };
            format!("{origin}: there is no key `{name}` {place}; known there: {}", known.join(", "))
        }
        Kind::Message(text) if path.is_empty() => {
            let text: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            format!("{origin}: {}", text.join(" "))
        }
        Kind::UnknownVariant(value, known) => {
            format!("{origin}: `{path}`: found \"{value}\", expected one of {}", known.join(", "))
        }
        kind => format!("{origin}: `{path}`: {kind}"),
    };
    Invalid(text)
}
