//! `token`: a signed JWT on standard output and nothing else, so that it can stand in `$(…)`.

use std::path::Path;
use std::time::Duration;

use cluster::env::clock;
use cluster::id::{DeviceId, UserId};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::args::TokenArgs;
use super::failure::{Failure, failed, usage};
use crate::config::{Config, DEV_JWT_SECRET, Hidden, Sources, load};

/// What our own tokens say.
#[derive(Debug, Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// Signs tokens with the secret that a node on this machine would use.
#[derive(Clone)]
pub struct Signer {
    secret: Hidden,
    issuer: Option<String>,
    audience: Option<String>,
}

impl Signer {
    /// The signer that the environment, and `config` if given, describe.
    ///
    /// # Errors
    /// A configuration that does not load, or that has public keys only.
    pub fn from_environment(config: Option<&Path>) -> Result<Self, Failure> {
        let sources = Sources {
            file: config.map(Path::to_owned),
            environment: super::process::environment(),
            ..Sources::default()
        };
        let (config, _) = load(&Config::default(), &sources)?;
        let auth = config.auth;
        let secret = match auth.jwt_secret {
            Some(secret) => secret,
            None if auth.jwks_file.is_some() => {
                return usage(
                    "the configuration has a JWKS file only, and public keys sign nothing; set IMGW_JWT_SECRET",
                );
            }
            None => Hidden::new(DEV_JWT_SECRET),
        };
        Ok(Self { secret, issuer: auth.issuer, audience: auth.audience })
    }

    /// A token for `user`, good for `ttl` from now on.
    ///
    /// # Errors
    /// A name that breaks its rules, or a signing failure.
    pub fn sign(&self, user: &str, device: Option<&str>, ttl: Duration) -> Result<String, Failure> {
        UserId::new(user).map_err(|rule| Failure::Usage(format!("--user: {rule}")))?;
        device.map(DeviceId::new).transpose().map_err(|rule| Failure::Usage(format!("--device: {rule}")))?;
        let now_s = clock::wall_ms() / 1_000;
        let claims = Claims {
            sub: user,
            iat: now_s,
            exp: now_s.saturating_add(ttl.as_secs().max(1)),
            device,
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
        };
        let key = EncodingKey::from_secret(self.secret.reveal().as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
            .or_else(|error| failed(format!("cannot sign the token: {error}")))
    }
}

/// Prints a token.
///
/// # Errors
/// As [`Signer`].
pub fn run(args: &TokenArgs) -> Result<(), Failure> {
    let signer = Signer::from_environment(args.config.as_deref())?;
    let token = signer.sign(&args.user, args.device.as_deref(), args.ttl)?;
    super::process::print(&token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(secret: &str) -> Signer {
        Signer { secret: Hidden::new(secret), issuer: Some("us".into()), audience: None }
    }

    #[test]
    fn a_token_says_what_was_asked() {
        let token = signer("s").sign("alice", Some("d1"), Duration::from_secs(60)).expect("signed");
        let mut validation = jsonwebtoken::Validation::new(Algorithm::HS256);
        validation.set_issuer(&["us"]);
        let key = jsonwebtoken::DecodingKey::from_secret(b"s");
        let claims = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &validation).expect("valid").claims;
        assert_eq!((&claims["sub"], &claims["device"], &claims["iss"]), (&"alice".into(), &"d1".into(), &"us".into()));
        let life = claims["exp"].as_u64().expect("a number") - claims["iat"].as_u64().expect("a number");
        assert_eq!(life, 60);
        assert!(claims.get("aud").is_none());
    }

    #[test]
    fn bad_names_are_refused() {
        assert!(signer("s").sign("", None, Duration::ZERO).is_err());
        assert!(signer("s").sign("a\nb", None, Duration::ZERO).is_err());
        assert!(signer("s").sign("a", Some(""), Duration::ZERO).is_err());
    }
}
