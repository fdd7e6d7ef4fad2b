//! Signs tokens by the HS256 secret: for the `token` command, tests and the demo page.

use cluster::env::clock;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::AuthConfig;

/// Signing failed. (With HS256 it does not.)
#[derive(Debug, thiserror::Error)]
#[error("cannot sign the token: {0}")]
pub struct IssueError(#[from] jsonwebtoken::errors::Error);

/// A token for `user`, issued now, and for `device` only if given, that expires at `expires_ms` (ms since the
/// Unix epoch, rounded down to seconds).
///
/// # Errors
/// When the library cannot sign.
pub fn issue(secret: &str, user: &str, device: Option<&str>, expires_ms: u64) -> Result<String, IssueError> {
    sign(secret, &Claims { sub: user, exp: expires_ms / 1000, iat: now_s(), device, iss: None, aud: None })
}

/// As [`issue`], by and for whom `config` wants its tokens to be.
///
/// # Errors
/// When the library cannot sign.
pub fn issue_under(
    config: &AuthConfig,
    secret: &str,
    user: &str,
    device: Option<&str>,
    expires_ms: u64,
) -> Result<String, IssueError> {
    let (iss, aud) = (config.issuer.first().map(String::as_str), config.audience.first().map(String::as_str));
    sign(secret, &Claims { sub: user, exp: expires_ms / 1000, iat: now_s(), device, iss, aud })
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    exp: u64,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

fn now_s() -> u64 {
    clock::wall_ms() / 1000
}

fn sign(secret: &str, claims: &Claims<'_>) -> Result<String, IssueError> {
    let key = EncodingKey::from_secret(secret.as_bytes());
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key)?)
}
