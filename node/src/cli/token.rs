//! `token`: a signed JWT on standard output and nothing else, so that it can stand in `$(…)`.

use std::path::Path;
use std::time::Duration;

use cluster::env::clock;
use cluster::id::{DeviceId, UserId};
use im_gateway::auth::{AuthConfig, DEV_SECRET, issue_under};

use super::args::TokenArgs;
use super::failure::{Failure, failed, usage};
use crate::config::{Config, Sources, load};

/// Signs tokens with the secret that a node on this machine would use.
#[derive(Debug, Clone)]
pub struct Signer(AuthConfig);

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
        if config.auth.secret.is_none() && config.auth.jwks.is_some() {
            return usage(
                "the configuration has public keys only (auth.jwks), and they sign nothing; set IMGW_JWT_SECRET",
            );
        }
        Ok(Self(config.auth))
    }

    /// A token for `user`, good for `ttl` from now on.
    ///
    /// # Errors
    /// A name that breaks its rules, or a signing failure.
    pub fn sign(&self, user: &str, device: Option<&str>, ttl: Duration) -> Result<String, Failure> {
        UserId::new(user).map_err(|rule| Failure::Usage(format!("--user: {rule}")))?;
        device.map(DeviceId::new).transpose().map_err(|rule| Failure::Usage(format!("--device: {rule}")))?;
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let secret = self.0.secret.as_ref().map_or(DEV_SECRET, |secret| secret.reveal());
        issue_under(&self.0, secret, user, device, clock::wall_ms().saturating_add(ttl_ms))
            .or_else(|error| failed(error.to_string()))
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
    use im_gateway::auth::{Masked, Verifier};

    use super::*;

    fn signer() -> Signer {
        let auth = AuthConfig { secret: Some(Masked::new("s")), issuer: vec!["us".into()], ..AuthConfig::default() };
        Signer(AuthConfig { audience: vec!["them".into()], ..auth })
    }

    #[test]
    fn a_node_of_the_same_configuration_takes_the_token() {
        let signer = signer();
        let token = signer.sign("alice", Some("d1"), Duration::from_secs(60)).expect("signed");
        let identity = Verifier::new(&signer.0).expect("a good configuration").verify(&token).expect("a good token");
        assert_eq!((identity.user.as_str(), identity.device.expect("bound").as_str()), ("alice", "d1"));
        let left_ms = identity.expires_ms - clock::wall_ms();
        assert!(left_ms <= 60_000 + signer.0.leeway_s * 1_000 && left_ms > 50_000, "{left_ms}");
    }

    #[test]
    fn bad_names_are_refused() {
        assert!(signer().sign("", None, Duration::ZERO).is_err());
        assert!(signer().sign("a\nb", None, Duration::ZERO).is_err());
        assert!(signer().sign("a", Some(""), Duration::ZERO).is_err());
    }
}
