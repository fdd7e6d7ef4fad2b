//! How tokens are to be checked.

use std::fmt;
use std::path::PathBuf;

use http::Uri;
use serde::{Deserialize, Serialize, Serializer};

use crate::client::Address;
use crate::host::is_loopback;

/// The HS256 secret that is used when none is configured. Published, so anybody can sign with it:
/// a node that listens elsewhere than on loopback refuses to start with it.
pub const DEV_SECRET: &str = "im-gateway development secret, public";

/// How tokens are checked: by a shared secret (HS256), or by the public keys of a JWKS file or URL
/// (RS256, ES256, EdDSA: each key's type decides).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// The HS256 secret. Without it and without `jwks` it is [`DEV_SECRET`].
    pub secret: Option<Masked>,
    /// A JSON Web Key Set; read again and again.
    pub jwks: Option<Jwks>,
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

/// Where a JSON Web Key Set is: a file, or an `https://` URL (`http://` from this machine only, or
/// whoever sits in between could sign tokens).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Jwks {
    /// A file's path.
    File(PathBuf),
    /// A web server's.
    Url(JwksUrl),
}

/// The URL of a key set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksUrl {
    uri: Uri,
    /// Of the server.
    pub address: Address,
}

impl JwksUrl {
    /// Path and query.
    #[must_use]
    pub fn target(&self) -> &str {
        self.uri.path_and_query().map_or("/", |target| target.as_str())
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may hold a key.
        let query = if self.uri.query().is_some() { "?***" } else { "" };
        write!(
            f,
            "{}://{}{}{query}",
            self.uri.scheme_str().unwrap_or_default(),
            self.address.authority,
            self.uri.path()
        )
    }
}

impl TryFrom<String> for Jwks {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let wrong = || format!("\"{text}\" is neither a file nor a URL such as https://id.example/jwks.json");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let address = Address::parse(&text).map_err(|_| wrong())?;
        let local = is_loopback(&address.authority);
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("a JWKS URL with a name or password in it is not supported: key sets are public".into());
        }
        match uri.scheme_str() {
            Some("https") => Ok(Self::Url(JwksUrl { uri, address })),
            Some("http") if local => Ok(Self::Url(JwksUrl { uri, address })),
            Some("http") => Err(format!(
                "\"{text}\" would come in the clear, and who changes it on the way signs tokens; give an https:// URL"
            )),
            _ => Err(wrong()),
        }
    }
}

impl From<Jwks> for String {
    fn from(jwks: Jwks) -> Self {
        match jwks {
            Jwks::File(path) => path.to_string_lossy().into_owned(),
            Jwks::Url(url) => url.to_string(),
        }
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
    /// The key server gives none.
    #[error("cannot get the keys for tokens from {url}: {why}; check auth.jwks, and that server")]
    Fetch {
        /// Which.
        url: String,
        /// Why.
        why: String,
    },
    /// What came is no key set.
    #[error("the JWKS {from} cannot be used: {why}")]
    Keys {
        /// The file or URL.
        from: String,
        /// Why.
        why: String,
    },
}

impl AuthConfigError {
    pub(super) fn fetch(url: &JwksUrl, why: impl Into<String>) -> Self {
        Self::Fetch { url: url.to_string(), why: why.into() }
    }

    pub(super) fn keys(from: impl fmt::Display, why: String) -> Self {
        Self::Keys { from: from.to_string(), why }
    }
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
