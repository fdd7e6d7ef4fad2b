//! How tokens are to be checked.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer};

/// The HS256 secret that is used when none is configured. Published, so anybody can sign with it:
/// a node that listens elsewhere than on loopback refuses to start with it.
pub const DEV_SECRET: &str = "im-gateway development secret, public";

/// How tokens are checked: by a shared secret (HS256), or by the public keys of a JWKS file
/// (RS256, ES256, EdDSA: each key's type decides).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// The HS256 secret. Without it and without `jwks` it is [`DEV_SECRET`].
    pub secret: Option<Masked>,
    /// A JSON Web Key Set; read again when it changes.
    pub jwks: Option<PathBuf>,
    /// A token's `aud` must hold one of these; empty: not checked.
    pub audience: Vec<String>,
    /// A token's `iss` must be one of these; empty: not checked.
    pub issuer: Vec<String>,
    /// How far clocks may differ, in seconds: allowed for at `exp` and at `nbf`.
    pub leeway_s: u64,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self { secret: None, jwks: None, audience: Vec::new(), issuer: Vec::new(), leeway_s: 5 }
    }
}

/// Why tokens cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum AuthConfigError {
    /// Two ways at once.
    #[error("both an HS256 secret and a JWKS file are configured: keep the one that signs your tokens")]
    Both,
    /// A secret without a byte.
    #[error("the HS256 secret is empty: set IMGW_JWT_SECRET to at least 32 random bytes, or leave it out")]
    EmptySecret,
    /// The key file cannot be read.
    #[error("cannot read the JWKS file {}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The key file is not one.
    #[error("the JWKS file {} cannot be used: {why}", path.display())]
    Keys {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A secret in a configuration. Shows itself to nobody: `Debug` and `Serialize` give stars.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Masked(String);

impl Masked {
    /// Takes a secret.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `other` is this secret, in a time that tells nothing about where they differ.
    #[must_use]
    pub fn matches(&self, other: &str) -> bool {
        use sha2::{Digest, Sha256};
        // Equal digests of equal length: which byte differs first says nothing about the secret.
        let (a, b) = (Sha256::digest(self.0.as_bytes()), Sha256::digest(other.as_bytes()));
        a.iter().zip(b.iter()).fold(0, |different, (a, b)| different | (a ^ b)) == 0
    }
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Masked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}
