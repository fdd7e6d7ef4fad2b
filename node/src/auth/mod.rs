//! Who a client is: JSON Web Tokens.
//!
//! Invariant: the algorithm and the key come from the configuration, never from the token, and a
//! token counts only between its `nbf` and `exp` by this node's clock, give or take the leeway.

mod config;
mod issue;
mod jwks;
mod source;

use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use cluster::env::clock;
use cluster::id::{DeviceId, UserId};
use cluster::sync::{read, write};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use tokio::sync::{Notify, watch};

pub use config::{AuthConfig, AuthConfigError, DEV_SECRET, Jwks, JwksUrl, Masked};
pub use issue::{IssueError, issue, issue_under};
use jwks::Keys;
pub use source::KeyServer;
use source::Source;

/// Longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 8 << 10;
/// Tokens by unknown keys make us look for new ones at most this often.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How long a client waits for that.
const LOOK_AGAIN_WITHIN: Duration = Duration::from_secs(4);

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its subject.
    pub user: UserId,
    /// The only device that may use it, if it names one.
    pub device: Option<DeviceId>,
    /// From then on it no longer counts, leeway included, ms since the Unix epoch.
    pub expires_ms: u64,
    /// When it was issued, if it says so (`iat`), ms since the Unix epoch.
    pub issued_ms: Option<u64>,
}

/// Why a token does not count. The words reach the client: they never repeat the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is none.
    #[error("no token: give one in hello or in the Authorization header")]
    Missing,
    /// Not a token.
    #[error("the token is malformed")]
    Malformed,
    /// Signed by an algorithm that is not configured; `none` too.
    #[error("the token is signed by an algorithm that this node does not accept")]
    Algorithm,
    /// Names a key that is not configured.
    #[error("the token is signed by a key that this node does not know")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` lies ahead.
    #[error("the token is not valid yet")]
    NotYet,
    /// `aud` does not name us.
    #[error("the token is for another audience")]
    Audience,
    /// `iss` is not one that we trust.
    #[error("the token comes from an issuer that this node does not trust")]
    Issuer,
    /// `sub` is no user.
    #[error("the token's subject is not a user: 1 to 128 bytes without control characters")]
    Subject,
    /// `device` names another device than the client claims to be, or none that can be.
    #[error("the token is for another device")]
    Device,
    /// It was issued before the user's tokens were revoked, or does not say when.
    #[error("the token was revoked: log in again")]
    Revoked,
    /// A refreshed token must be the same user's.
    #[error("the token is another user's")]
    OtherUser,
}

impl AuthError {
    /// Whether a key that we have not read yet could be why.
    #[must_use]
    pub fn is_about_keys(self) -> bool {
        matches!(self, Self::UnknownKey | Self::Algorithm)
    }
}

/// Checks tokens. Shared by all sessions of a node.
pub struct Verifier {
    keys: RwLock<Arc<Keys>>,
    source: Source,
    /// When the source was last looked at.
    looked: watch::Sender<clock::Instant>,
    /// Somebody wants it looked at now.
    wanted: Notify,
    audience: Vec<String>,
    issuer: Vec<String>,
    leeway_ms: u64,
    development_secret: bool,
}

/// What we read of a token. Times may have fractions (RFC 7519, `NumericDate`).
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    aud: Option<OneOrMany>,
    iss: Option<String>,
    device: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// Takes the configuration; reads the JWKS file if there is one.
    ///
    /// # Errors
    /// When the configuration contradicts itself, or the JWKS cannot be read or holds no usable key; and
    /// when it is to come from a server, which is for [`Verifier::open`].
    pub fn new(config: &AuthConfig) -> Result<Self, AuthConfigError> {
        Self::of(config, None)
    }

    /// Takes the configuration, and gets the JWKS wherever it is.
    ///
    /// # Errors
    /// As [`Verifier::new`].
    pub async fn open(config: &AuthConfig, server: Option<KeyServer>) -> Result<Self, AuthConfigError> {
        let verifier = Self::of(config, server)?;
        // A file has been read by now.
        if matches!(verifier.source, Source::Server { .. }) {
            verifier.reload().await?;
        }
        Ok(verifier)
    }

    fn of(config: &AuthConfig, server: Option<KeyServer>) -> Result<Self, AuthConfigError> {
        let source = Source::of(config, server)?;
        Ok(Self {
            keys: RwLock::new(Arc::new(source.first()?)),
            development_secret: matches!(source, Source::Secret { development: true, .. }),
            source,
            looked: watch::Sender::new(clock::now()),
            wanted: Notify::new(),
            audience: config.audience.clone(),
            issuer: config.issuer.clone(),
            leeway_ms: config.leeway_s.saturating_mul(1000),
        })
    }

    /// Whether anybody could have signed our tokens, because the secret is the published one.
    #[must_use]
    pub fn has_development_secret(&self) -> bool {
        self.development_secret
    }

    /// The HS256 secret, if that is how tokens are signed.
    #[must_use]
    pub fn secret(&self) -> Option<&Masked> {
        match &self.source {
            Source::Secret { secret, .. } => Some(secret),
            Source::File { .. } | Source::Server { .. } => None,
        }
    }

    /// Reads the JWKS again; true if new keys are in force. On an error the old keys stay.
    ///
    /// # Errors
    /// As [`Verifier::new`].
    pub async fn reload(&self) -> Result<bool, AuthConfigError> {
        let changed = self.source.changed().await;
        self.looked.send_replace(clock::now());
        let Some(keys) = changed? else { return Ok(false) };
        *write(&self.keys) = Arc::new(keys);
        Ok(true)
    }

    /// Takes up changed keys until `stop` changes. A source that fails changes nothing but the log.
    pub async fn watch(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let Some(every) = self.source.every() else { return };
        let mut failed: Option<String> = None;
        loop {
            tokio::select! {
                biased;
                _ = stop.changed() => return,
                () = self.wanted.notified() => {}
                () = clock::sleep(every) => {}
            }
            let error = match self.reload().await {
                Ok(changed) => {
                    if changed {
                        tracing::info!("new keys for tokens are in force");
                    }
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = error.as_ref().filter(|error| failed.as_ref() != Some(error)) {
                tracing::error!(error, "the keys for tokens stay as they were");
            }
            failed = error;
        }
    }

    /// A token was refused for want of its key: waits until the source has been looked at just now, if
    /// [`Verifier::watch`] runs. True if it is worth checking the token once more.
    pub async fn look_again(&self) -> bool {
        if self.source.every().is_none() {
            return false;
        }
        let mut looked = self.looked.subscribe();
        looked.borrow_and_update();
        if self.look_soon() {
            let _ = clock::timeout(LOOK_AGAIN_WITHIN, looked.changed()).await;
        }
        true
    }

    /// As [`Verifier::look_again`], and waits for nothing; whether the source will be looked at.
    pub fn look_soon(&self) -> bool {
        let due = self.source.every().is_some() && clock::now() - *self.looked.borrow() >= LOOK_AGAIN_AFTER;
        if due {
            self.wanted.notify_one();
        }
        due
    }

    /// Checks a token as of now.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        self.verify_at(token, clock::wall_ms())
    }

    /// Checks a token as of `now_ms`, ms since the Unix epoch.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn verify_at(&self, token: &str, now_ms: u64) -> Result<Identity, AuthError> {
        let claims = self.signed_claims(token)?;
        let to_ms = |seconds: f64| if seconds.is_finite() { (seconds.max(0.0) * 1000.0) as u64 } else { 0 };
        let expires_ms = claims.exp.map(to_ms).ok_or(AuthError::Malformed)?.saturating_add(self.leeway_ms);
        if now_ms >= expires_ms {
            return Err(AuthError::Expired);
        }
        if claims.nbf.map(to_ms).is_some_and(|nbf| now_ms.saturating_add(self.leeway_ms) < nbf) {
            return Err(AuthError::NotYet);
        }
        if !self.audience.is_empty() {
            let named = match claims.aud {
                None => Vec::new(),
                Some(OneOrMany::One(one)) => vec![one],
                Some(OneOrMany::Many(many)) => many,
            };
            if !named.iter().any(|name| self.audience.contains(name)) {
                return Err(AuthError::Audience);
            }
        }
        if !self.issuer.is_empty() && !claims.iss.is_some_and(|issuer| self.issuer.contains(&issuer)) {
            return Err(AuthError::Issuer);
        }
        let user = UserId::new(claims.sub.as_deref().unwrap_or_default()).map_err(|_| AuthError::Subject)?;
        let device = claims.device.as_deref().map(DeviceId::new).transpose().map_err(|_| AuthError::Device)?;
        Ok(Identity { user, device, expires_ms, issued_ms: claims.iat.map(to_ms) })
    }

    /// The claims of a token whose signature is right.
    fn signed_claims(&self, token: &str) -> Result<Claims, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Malformed);
        }
        let keys = read(&self.keys).clone();
        let header = jsonwebtoken::decode_header(token).map_err(|error| match error.kind() {
            // An algorithm that the library has no name for, `none` among them.
            jsonwebtoken::errors::ErrorKind::Json(_) => AuthError::Algorithm,
            _ => AuthError::Malformed,
        })?;
        if !keys.has_algorithm(header.alg) {
            return Err(AuthError::Algorithm);
        }
        let mut candidates = keys.candidates(header.alg, header.kid.as_deref()).peekable();
        if candidates.peek().is_none() {
            return Err(AuthError::UnknownKey);
        }
        let mut result = Err(AuthError::Signature);
        for key in candidates {
            result = check_signature(token, key, header.alg);
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

/// Checks the signature only; times and names are ours to check, by our clock.
fn check_signature(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Claims, AuthError> {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    match jsonwebtoken::decode::<Claims>(token, key, &validation) {
        Ok(data) => Ok(data.claims),
        Err(error) => Err(match error.kind() {
            jsonwebtoken::errors::ErrorKind::Json(_) | jsonwebtoken::errors::ErrorKind::Utf8(_) => AuthError::Malformed,
            _ => AuthError::Signature,
        }),
    }
}

impl Identity {
    /// Whether the token counts no more, where those issued before this time do not. One that does not
    /// say when it was issued may have been: it counts no more either.
    #[must_use]
    pub fn is_revoked(&self, before_ms: Option<u64>) -> bool {
        before_ms.is_some_and(|before_ms| self.issued_ms.is_none_or(|issued_ms| issued_ms < before_ms))
    }

    /// The device that a client is, given the name it says it has.
    ///
    /// # Errors
    /// [`AuthError::Device`] when the token is bound to another one.
    pub fn device(&self, claimed: Option<&DeviceId>) -> Result<Option<DeviceId>, AuthError> {
        match (&self.device, claimed) {
            (Some(bound), Some(claimed)) if bound != claimed => Err(AuthError::Device),
            (bound, claimed) => Ok(bound.as_ref().or(claimed).cloned()),
        }
    }
}

#[cfg(test)]
mod tests;
