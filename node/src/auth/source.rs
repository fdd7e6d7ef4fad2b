//! Where keys come from: the configuration, a file, a web server.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cluster::env::{Net, clock};
use cluster::sync::lock;
use http::{Request, StatusCode, header};

use super::config::{AuthConfig, AuthConfigError, DEV_SECRET, Jwks, JwksUrl, Masked};
use super::jwks::Keys;
use crate::request::exchange;

/// How often a file is looked at.
const FILE_EVERY: Duration = Duration::from_secs(10);
/// How often a server is asked. A new key should be published this long before it signs.
const SERVER_EVERY: Duration = Duration::from_secs(60);
/// How long a server may take. Less than a client has for its hello, which may wait for the answer.
const SERVER_WITHIN: Duration = Duration::from_secs(3);
/// More than any key set.
const KEYS_MAX_BYTES: usize = 1 << 20;

/// How the server is reached that gives out the key set at [`Jwks::Url`].
#[derive(Clone)]
pub struct KeyServer(pub Arc<dyn Net>);

pub(super) enum Source {
    Secret { secret: Masked, development: bool },
    File { path: PathBuf, changed: Mutex<Option<SystemTime>> },
    Server { url: JwksUrl, server: KeyServer, last: Mutex<String> },
}

impl Source {
    pub(super) fn of(config: &AuthConfig, server: Option<KeyServer>) -> Result<Self, AuthConfigError> {
        match (&config.secret, &config.jwks) {
            (Some(_), Some(_)) => Err(AuthConfigError::Both),
            (Some(secret), None) if secret.reveal().is_empty() => Err(AuthConfigError::EmptySecret),
            (Some(secret), None) => {
                Ok(Self::Secret { secret: secret.clone(), development: secret.reveal() == DEV_SECRET })
            }
            (None, None) => Ok(Self::Secret { secret: Masked::new(DEV_SECRET), development: true }),
            (None, Some(Jwks::File(path))) => Ok(Self::File { path: path.clone(), changed: Mutex::new(None) }),
            (None, Some(Jwks::Url(url))) => {
                let unreachable = || AuthConfigError::fetch(url, "nothing to reach it by was given");
                let server = server.ok_or_else(unreachable)?;
                Ok(Self::Server { url: url.clone(), server, last: Mutex::default() })
            }
        }
    }

    /// How often [`Source::changed`] is to be asked; never, if nothing can change.
    pub(super) fn every(&self) -> Option<Duration> {
        match self {
            Self::Secret { .. } => None,
            Self::File { .. } => Some(FILE_EVERY),
            Self::Server { .. } => Some(SERVER_EVERY),
        }
    }

    /// The keys, if they are not those that were read last.
    pub(super) async fn changed(&self) -> Result<Option<Keys>, AuthConfigError> {
        match self {
            Self::Secret { .. } => Ok(None),
            Self::File { path, changed } => changed_file(path, changed),
            Self::Server { url, server, last } => {
                let answer = clock::timeout(SERVER_WITHIN, fetch(&*server.0, url)).await;
                let text = answer.unwrap_or_else(|_| Err(format!("no answer within {SERVER_WITHIN:?}")));
                let text = text.map_err(|why| AuthConfigError::fetch(url, why))?;
                if text == *lock(last) {
                    return Ok(None);
                }
                let keys = Keys::parse(&text).map_err(|why| AuthConfigError::keys(url, why))?;
                *lock(last) = text;
                Ok(Some(keys))
            }
        }
    }

    /// The keys to begin with, as far as they can be had at once.
    pub(super) fn first(&self) -> Result<Keys, AuthConfigError> {
        match self {
            Self::Secret { secret, .. } => Ok(Keys::of_secret(secret)),
            Self::File { path, changed } => Ok(changed_file(path, changed)?.unwrap_or_default()),
            Self::Server { .. } => Ok(Keys::default()),
        }
    }
}

fn changed_file(path: &Path, changed: &Mutex<Option<SystemTime>>) -> Result<Option<Keys>, AuthConfigError> {
    // The time first: a change while we read shows at the next look.
    let time = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if time.is_some() && time == *lock(changed) {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|error| AuthConfigError::Read { path: path.to_owned(), error })?;
    *lock(changed) = time;
    Keys::parse(&text).map(Some).map_err(|why| AuthConfigError::keys(path.display(), why))
}

async fn fetch(net: &dyn Net, url: &JwksUrl) -> Result<String, String> {
    let conn = net.connect(&url.address.authority).await.map_err(|error| error.to_string())?;
    let request = Request::get(url.target()).header(header::HOST, &url.address.authority);
    let request = request.header(header::ACCEPT, "application/json").body(Bytes::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = exchange(conn, request, KEYS_MAX_BYTES).await.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answers {}", answer.status()));
    }
    String::from_utf8(answer.into_body().into()).map_err(|_| "its answer is not text".into())
}
